//! The table of failures and kinds.

use aws_sdk_secretsmanager::error::{ConnectorError, ErrorMetadata};
use aws_sdk_secretsmanager::operation::get_secret_value::GetSecretValueError;
use aws_smithy_runtime_api::client::result::ServiceError;
use aws_smithy_runtime_api::http::{Response, StatusCode};

use super::*;

type Failure = SdkError<GetSecretValueError>;

const WAIT: Option<Duration> = Some(Duration::from_secs(7));

fn answer(status: u16) -> HttpResponse {
    let mut answer = Response::new(StatusCode::try_from(status).unwrap(), "canary".into());
    answer.headers_mut().insert("retry-after", "7");
    answer
}

fn said(status: u16, code: &str) -> Failure {
    let meta = ErrorMetadata::builder().code(code).message("canary").build();
    SdkError::service_error(GetSecretValueError::generic(meta), answer(status))
}

#[test]
fn kinds_come_from_codes_and_statuses() {
    use ErrorKind::{
        Ambiguous, Conflict, DeadlineExceeded, Denied, Invalid, NotFound, Throttled,
        Unauthenticated, Unavailable, VersionDisabled,
    };
    let throttled = Throttled { retry_after: WAIT };
    let named = |status, code: &str| Seen::Said(code.into(), status, WAIT);
    for (seen, read, write) in [
        (named(400, "ResourceNotFoundException"), NotFound, NotFound),
        (named(400, "AccessDeniedException"), Denied, Denied),
        (named(403, "AccessDenied"), Denied, Denied),
        (named(400, "NotAuthorized"), Denied, Denied),
        (named(400, "OptInRequired"), Denied, Denied),
        (named(400, "ExpiredTokenException"), Unauthenticated, Unauthenticated),
        (named(403, "ExpiredToken"), Unauthenticated, Unauthenticated),
        (named(400, "UnrecognizedClientException"), Unauthenticated, Unauthenticated),
        (named(403, "InvalidClientTokenId"), Unauthenticated, Unauthenticated),
        (named(400, "InvalidSignatureException"), Unauthenticated, Unauthenticated),
        (named(403, "SignatureDoesNotMatch"), Unauthenticated, Unauthenticated),
        (named(400, "IncompleteSignatureException"), Unauthenticated, Unauthenticated),
        (named(400, "MissingAuthenticationTokenException"), Unauthenticated, Unauthenticated),
        (named(400, "RequestExpired"), Unauthenticated, Unauthenticated),
        (named(400, "ThrottlingException"), throttled, throttled),
        (named(400, "Throttling"), throttled, throttled),
        (named(429, "TooManyRequestsException"), throttled, throttled),
        (named(400, "RequestLimitExceeded"), throttled, throttled),
        (named(400, "LimitExceededException"), throttled, throttled),
        (named(400, "InvalidRequestException"), VersionDisabled, VersionDisabled),
        (named(400, "DecryptionFailure"), VersionDisabled, VersionDisabled),
        (named(400, "EncryptionFailure"), VersionDisabled, VersionDisabled),
        (named(400, "ResourceExistsException"), Conflict, Conflict),
        (named(400, "PreconditionNotMetException"), Conflict, Conflict),
        (named(400, "InvalidParameterException"), Invalid, Invalid),
        (named(400, "ValidationException"), Invalid, Invalid),
        (named(400, "InvalidNextTokenException"), Unavailable, Unavailable),
        (named(500, "InternalServiceError"), Unavailable, Ambiguous),
        (named(503, "ServiceUnavailable"), Unavailable, Ambiguous),
        (named(429, "SomethingNew"), throttled, throttled),
        (named(403, "SomethingNew"), Denied, Denied),
        (named(400, "SomethingNew"), Invalid, Invalid),
        (Seen::Http(401, None), Unauthenticated, Unauthenticated),
        (Seen::Http(403, None), Denied, Denied),
        (Seen::Http(404, None), Unavailable, Unavailable),
        (Seen::Http(429, WAIT), throttled, throttled),
        (Seen::Http(502, None), Unavailable, Ambiguous),
        (Seen::NoConnection, Unavailable, Unavailable),
        (Seen::NoCredential { later: true }, Unavailable, Unavailable),
        (Seen::NoCredential { later: false }, Unauthenticated, Unauthenticated),
        (Seen::NoRequest, Invalid, Invalid),
        (Seen::Timeout, DeadlineExceeded, Ambiguous),
        (Seen::Lost, Unavailable, Ambiguous),
        (Seen::Garbled, Unavailable, Ambiguous),
    ] {
        assert_eq!(seen.kind(Call::Read), read, "{seen:?}");
        assert_eq!(seen.kind(Call::Write), write, "{seen:?}");
        assert_eq!(seen.kind(Call::WriteOfValue), write, "{seen:?}");
    }
}

#[test]
fn types_of_failures_are_told_apart() {
    let io = |kind| Box::new(io::Error::new(kind, "x"));
    let dispatch = |error| Failure::dispatch_failure(error);
    let credential = |error: CredentialsError| Failure::construction_failure(error);
    let on_the_way =
        |error: CredentialsError| dispatch(ConnectorError::other(Box::new(error), None));
    let unreachable = ConnectorError::io(io(io::ErrorKind::ConnectionRefused));
    for (failure, seen) in [
        (said(400, "ThrottlingException"), Seen::Said("ThrottlingException".into(), 400, WAIT)),
        (
            SdkError::service_error(GetSecretValueError::unhandled("x"), answer(503)),
            Seen::Http(503, WAIT),
        ),
        (Failure::response_error("x", answer(502)), Seen::Http(502, WAIT)),
        (Failure::response_error("x", answer(200)), Seen::Garbled),
        (Failure::construction_failure("x"), Seen::NoRequest),
        (Failure::timeout_error("x"), Seen::Timeout),
        (dispatch(ConnectorError::timeout("x".into())), Seen::NoConnection),
        (dispatch(ConnectorError::io(io(io::ErrorKind::ConnectionRefused))), Seen::NoConnection),
        (dispatch(ConnectorError::io(io(io::ErrorKind::ConnectionReset))), Seen::Lost),
        (dispatch(ConnectorError::user("x".into())), Seen::NoRequest),
        (dispatch(ConnectorError::other("x".into(), None)), Seen::Lost),
        (credential(CredentialsError::not_loaded("x")), Seen::NoCredential { later: false }),
        (on_the_way(CredentialsError::not_loaded("x")), Seen::NoCredential { later: false }),
        (
            credential(CredentialsError::invalid_configuration("x")),
            Seen::NoCredential { later: false },
        ),
        (
            credential(CredentialsError::provider_timed_out(Duration::from_secs(1))),
            Seen::NoCredential { later: true },
        ),
        (credential(CredentialsError::provider_error("x")), Seen::NoCredential { later: false }),
        // STS has said no, and STS cannot be reached.
        (
            credential(CredentialsError::provider_error(said(403, "AccessDenied"))),
            Seen::NoCredential { later: false },
        ),
        (
            on_the_way(CredentialsError::provider_error(dispatch(unreachable))),
            Seen::NoCredential { later: true },
        ),
    ] {
        assert_eq!(Seen::of(&failure), seen, "{failure:?}");
    }
}

#[test]
fn an_answer_that_quotes_the_value_is_not_quoted() {
    let invalid = || said(400, "InvalidParameterException");
    let error = failed(&invalid(), Call::WriteOfValue, "s");
    assert!(!format!("{error:?} {}", error.chain()).contains("canary"), "{error:?}");
    let error = failed(&invalid(), Call::Read, "s");
    assert!(error.chain().contains("canary"), "{}", error.chain());
    for failure in [
        Failure::response_error("canary", answer(502)),
        Failure::response_error("canary", answer(200)),
        Failure::construction_failure("canary"),
        SdkError::ServiceError(
            ServiceError::builder()
                .source(GetSecretValueError::unhandled("canary"))
                .raw(answer(500))
                .build(),
        ),
    ] {
        let error = failed(&failure, Call::Read, "s");
        assert!(!format!("{error:?} {}", error.chain()).contains("canary"), "{error:?}");
    }
}

#[test]
fn a_batch_says_of_each_secret_what_a_read_of_it_would() {
    for (code, kind) in [
        ("ResourceNotFoundException", ErrorKind::NotFound),
        ("AccessDeniedException", ErrorKind::Denied),
        ("DecryptionFailure", ErrorKind::VersionDisabled),
        ("InvalidRequestException", ErrorKind::VersionDisabled),
        ("InternalServiceError", ErrorKind::Unavailable),
        ("ThrottlingException", ErrorKind::Throttled { retry_after: None }),
    ] {
        let error = of_a_batch(code, "why", "db");
        assert_eq!(error.kind(), kind, "{code}");
        assert!(error.chain().contains("`db`") && error.chain().contains("why"), "{error:?}");
    }
}
