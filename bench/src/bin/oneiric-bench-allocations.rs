//! Counts the allocations of a hit. A program of its own, so that counting slows nothing that is
//! timed.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use oneiric_bench::variant::VARIANTS;
use oneiric_bench::workload::Order;

const ENTRIES: usize = 1000;

thread_local! {
    static COUNT: Cell<u64> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: every call goes to the system's allocator as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        COUNT.with(|count| count.set(count.get() + 1));
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the contract of `dealloc`.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// Prints a line for each variant: its name, and allocations per hit.
fn main() {
    for (name, fill) in VARIANTS {
        let reads = fill(ENTRIES);
        let order = Order::Uniform.draw(20 * ENTRIES, ENTRIES, 7);
        // What a pass allocates to begin with falls out, as in the counts of instructions.
        let count = |order: &[u32]| {
            let before = COUNT.with(Cell::get);
            reads.pass(order);
            COUNT.with(Cell::get) - before
        };
        count(&order);
        let (once, twice) = (count(&order[..10 * ENTRIES]), count(&order));
        println!("{name} {}", twice.saturating_sub(once) as f64 / (10 * ENTRIES) as f64);
    }
}
