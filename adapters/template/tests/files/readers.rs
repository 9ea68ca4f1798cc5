//! Readers that never pause while files are replaced under them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use super::*;

/// A value that fills more than one block of a disk, so that half of it would be seen.
fn value(number: u64) -> String {
    format!("{number}:{}", number.to_string().repeat(3000))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_reader_sees_half_a_file_or_parts_of_two() {
    let dir = tempfile::tempdir().unwrap();
    let hook = hook(&dir, |config| {
        config.files[0].content = Some("{{ token }}\n{{ token }}\nend\n".to_owned());
    });
    rotate(&hook, value(1)).await;
    let (stop, reads) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let reader = |_| {
        let (stop, reads, file) = (Arc::clone(&stop), Arc::clone(&reads), path(&dir, "conf"));
        thread::spawn(move || {
            let mut latest = 0;
            while !stop.load(Ordering::Relaxed) {
                let text = fs::read_to_string(&file).unwrap();
                let lines: Vec<_> = text.split('\n').collect();
                let [first, second, "end", ""] = lines[..] else { panic!("torn") };
                let number = first.split(':').next().unwrap().parse().unwrap();
                assert!(first == second && first == value(number), "mixed");
                assert!(number >= latest, "{number} after {latest}");
                latest = number;
                reads.fetch_add(1, Ordering::Relaxed);
            }
        })
    };
    let readers: Vec<_> = (0..2).map(reader).collect();
    for number in 2..60 {
        let before = reads.load(Ordering::Relaxed);
        assert_eq!(rotate(&hook, value(number)).await, DrainReport::drained());
        until("nobody reads", || reads.load(Ordering::Relaxed) > before + 20).await;
    }
    stop.store(true, Ordering::Relaxed);
    readers.into_iter().for_each(|reader| reader.join().unwrap());
}
