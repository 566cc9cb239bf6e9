//! The control API over HTTP: routes, authentication, and errors as JSON (design section 6).

use crate::connection::{Busy, Connection, Open};
use crate::events::MOST_LISTENERS;
use crate::gate::Gone;
use crate::serve::Door;
use crate::shared::{Made, Refusal, Shared};
use crate::{metrics, pinned};
use api::{
    Backup, BackupList, CreateBackup, ErrorBody, EventList, Peer, PeerInfo, Reason, RotationPlan, SetComment,
    SetPin, Settings, Status, VerifyBackup,
};
use auth::{Asking, Outcome, Verifier};
use axum::body::{Body, Bytes};
use axum::extract::rejection::QueryRejection;
use axum::extract::{DefaultBodyLimit, Extension, Path, Query, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::sse::{self, Sse};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use axum::{Json, Router};
use base64::Engine as _;
use futures_util::{Stream, StreamExt as _};
use hostd::Change;
use serde::de::DeserializeOwned;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::sync::broadcast::error::RecvError;

/// Longest request body in bytes: a peer with its certificate and configuration files, escaped, with room to spare.
const BODY_MAX: usize = 896 * 1024;
/// Longest body of all other requests.
const SMALL_BODY_MAX: usize = 16 * 1024;
/// Large bodies at once.
const LARGE_BODIES: usize = 2;
/// How long a request with a large body waits for its turn.
const LARGE_WAIT: Duration = Duration::from_secs(10);
/// Answers that are put together at once.
static WORK: Semaphore = Semaphore::const_new(8);
/// The path of the call with a large body.
const PEER: &str = "/v1/peer";
/// The kind of an answer that goes on for ever.
const EVENTS: &str = "text/event-stream";

/// What the handlers work with.
#[derive(Debug, Clone)]
pub struct App {
    /// Shared with the loop.
    pub shared: Arc<Shared>,
    /// Checks passwords.
    pub verifier: Arc<Verifier>,
    /// Closes connections.
    pub door: Arc<Door>,
    /// Large bodies.
    pub large: Arc<Large>,
}

/// The turns of requests with a large body.
#[derive(Debug)]
pub struct Large(Semaphore);

impl Default for Large {
    fn default() -> Self {
        Self(Semaphore::new(LARGE_BODIES))
    }
}

/// The routes.
pub fn router(app: App) -> Router {
    Router::new()
        .route("/v1/status", get(status))
        .route(PEER, get(peer).put(pair))
        .route("/v1/backups", get(backups).post(create_backup))
        .route("/v1/backups/{id}", get(backup))
        .route("/v1/backups/{id}/pin", put(pin))
        .route("/v1/backups/{id}/comment", put(comment))
        .route("/v1/backups/{id}/verify", post(verify))
        .route("/v1/settings", get(settings).put(set_settings))
        .route("/v1/rotation/plan", get(rotation_plan))
        .route("/v1/events", get(events))
        .route("/v1/events/live", get(live_events))
        .route("/v1/openapi.yaml", get(openapi))
        .route("/metrics", get(metrics))
        .fallback(|| async { ApiError::new(StatusCode::NOT_FOUND, "there is no such call; see /v1/status") })
        .method_not_allowed_fallback(|| async {
            ApiError::new(StatusCode::METHOD_NOT_ALLOWED, "this call does not know that method")
        })
        .layer(DefaultBodyLimit::max(BODY_MAX))
        .layer(middleware::from_fn_with_state(app.clone(), authenticate))
        .with_state(app)
}

async fn status(State(app): State<App>) -> Result<Json<Status>, ApiError> {
    let status = move || Ok(app.shared.status(app.verifier.is_default().map_err(|error| error.to_string())));
    Ok(Json(blocking(status).await?))
}

async fn metrics(State(app): State<App>) -> Result<impl IntoResponse, ApiError> {
    let page = blocking(move || {
        let status = app.shared.status(app.verifier.is_default().map_err(|error| error.to_string()));
        let list = match app.shared.backups() {
            Ok(list) => Some(list),
            // The check `data-volume` says it.
            Err(Refusal::Unavailable(_)) => None,
            Err(error) => return Err(error),
        };
        Ok(metrics::render(&status, list.as_ref()))
    });
    Ok(([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], page.await?))
}

async fn openapi() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/yaml")], api::OPENAPI)
}

async fn peer(State(app): State<App>) -> Result<Json<PeerInfo>, ApiError> {
    let peer =
        app.shared.peer().ok_or_else(|| ApiError::new(StatusCode::NOT_FOUND, "no monitor is paired"))?;
    Ok(Json(peer.info()))
}

async fn pair(State(app): State<App>, body: Bytes) -> Result<Json<PeerInfo>, ApiError> {
    let peer: Peer = parse(&body)?;
    peer.check().map_err(|error| ApiError::field(error.field, error.to_string()))?;
    pinned::client_config(&peer.certificate, pinned::Shown::default())
        .map_err(|error| ApiError::field("certificate", error.to_string()))?;
    auth::usable::usable(&peer.certificate)
        .map_err(|error| ApiError::field("certificate", error.to_string()))?;
    let info = peer.info();
    app.shared.pair(peer).await?;
    Ok(Json(info))
}

async fn backups(State(app): State<App>) -> Result<Json<BackupList>, ApiError> {
    Ok(Json(blocking(move || app.shared.backups()).await?))
}

async fn backup(State(app): State<App>, Path(id): Path<String>) -> Result<Json<Backup>, ApiError> {
    Ok(Json(blocking(move || app.shared.find(&id)).await?))
}

async fn create_backup(State(app): State<App>, body: Bytes) -> Result<(StatusCode, Json<Backup>), ApiError> {
    let request: CreateBackup = if body.is_empty() { CreateBackup::default() } else { parse(&body)? };
    check_comment(&request.comment)?;
    match app.shared.create_backup(Reason::OnDemand, request.comment).await? {
        Made::Backup(backup) => Ok((StatusCode::CREATED, Json(*backup))),
        Made::Unchanged(id) => Ok((StatusCode::OK, Json(blocking(move || app.shared.find(&id)).await?))),
    }
}

async fn pin(State(app): State<App>, Path(id): Path<String>, body: Bytes) -> Result<Json<Backup>, ApiError> {
    let SetPin { pinned } = parse(&body)?;
    Ok(Json(app.shared.change_backup(&id, Change::Pinned(pinned)).await?))
}

async fn comment(
    State(app): State<App>,
    Path(id): Path<String>,
    body: Bytes,
) -> Result<Json<Backup>, ApiError> {
    let SetComment { comment } = parse(&body)?;
    check_comment(&comment)?;
    Ok(Json(app.shared.change_backup(&id, Change::Comment(comment)).await?))
}

fn check_comment(comment: &str) -> Result<(), ApiError> {
    if comment.chars().count() > api::COMMENT_MAX {
        let problem = format!("comment: must have at most {} characters", api::COMMENT_MAX);
        return Err(ApiError::field("comment", problem));
    }
    // It is shown on consoles.
    if comment.chars().any(char::is_control) {
        return Err(ApiError::field("comment", "comment: must have no control characters".into()));
    }
    Ok(())
}

async fn verify(
    State(app): State<App>,
    Path(id): Path<String>,
    body: Bytes,
) -> Result<(StatusCode, Json<Backup>), ApiError> {
    if !body.is_empty() {
        let VerifyBackup {} = parse(&body)?;
    }
    Ok((StatusCode::ACCEPTED, Json(blocking(move || app.shared.ask_verification(&id)).await?)))
}

async fn settings(State(app): State<App>) -> Json<Settings> {
    Json(app.shared.settings())
}

async fn set_settings(State(app): State<App>, body: Bytes) -> Result<Json<Settings>, ApiError> {
    let settings: Settings = parse(&body)?;
    settings.check().map_err(|error| ApiError::field(error.field, error.to_string()))?;
    let saved = settings.clone();
    blocking(move || app.shared.set_settings(saved)).await?;
    Ok(Json(settings))
}

async fn rotation_plan(State(app): State<App>) -> Result<Json<RotationPlan>, ApiError> {
    Ok(Json(app.shared.paced_plan().await?))
}

/// Query of `GET /v1/events`.
#[derive(Debug, serde::Deserialize)]
struct Since {
    /// Only events with a higher number.
    after: Option<u64>,
}

async fn events(
    State(app): State<App>,
    since: Result<Query<Since>, QueryRejection>,
) -> Result<Json<EventList>, ApiError> {
    let Query(since) = since.map_err(|_| {
        ApiError::field("after", "after: must be the number of an event, as in /v1/events?after=17".into())
    })?;
    Ok(Json(EventList { events: app.shared.events.after(since.after) }))
}

/// Each event as it happens, and after a reconnection (`Last-Event-ID`) those that were missed.
async fn live_events(
    State(app): State<App>,
    headers: HeaderMap,
) -> Result<Sse<impl Stream<Item = Result<sse::Event, axum::Error>>>, ApiError> {
    let live = app.shared.events.live().ok_or_else(|| {
        let problem = format!("{MOST_LISTENERS} connections listen to events already; close one of them");
        ApiError::new(StatusCode::TOO_MANY_REQUESTS, problem)
    })?;
    let seen = headers.get("last-event-id").and_then(|id| id.to_str().ok()?.parse().ok());
    let missed = seen.map(|seen| app.shared.events.after(Some(seen))).unwrap_or_default();
    let as_sse = |event: api::Event| sse::Event::default().id(event.number.to_string()).json_data(event);
    let live = futures_util::stream::unfold(live, |mut live| async {
        loop {
            match live.recv().await {
                Ok(event) => return Some((event, live)),
                // Its numbers show the gap.
                Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return None,
            }
        }
    });
    let stream = futures_util::stream::iter(missed).chain(live).map(as_sse);
    Ok(Sse::new(stream).keep_alive(sse::KeepAlive::default()))
}

/// Lets through who knows the password; costly hashing happens beside the runtime. Only then is the body read.
async fn authenticate(
    State(app): State<App>,
    Extension(connection): Extension<Arc<Connection>>,
    request: Request,
    next: Next,
) -> Response {
    let open = connection.open();
    let response = match check(&app, &connection, request.headers()).await {
        Ok(()) => match admit(&app, &connection, request).await {
            Ok((request, busy)) => {
                let response = in_json(next.run(request).await).await;
                // Listeners have a limit of their own, and cost little.
                let listens = response.headers().get(header::CONTENT_TYPE).is_some_and(|kind| kind == EVENTS);
                let busy = if listens { None } else { Some(busy) };
                return response.map(|body| Body::new(Answer { body, _open: open, _busy: busy }));
            }
            Err(error) => error.into_response(),
        },
        Err(mut response) => {
            if connection.refused() {
                response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            response
        }
    };
    response.map(|body| Body::new(Answer { body, _open: open, _busy: None }))
}

/// Longest text of an error that is passed on, in bytes.
const ERROR_MAX: usize = 4096;

/// The answer, with the error of the library in the form of all others: it answers in plain text, or with nothing, what no
/// handler sees, such as a path that is not UTF-8.
async fn in_json(response: Response) -> Response {
    let status = response.status();
    let is_error = status.is_client_error() || status.is_server_error();
    let kind = response.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    if !is_error || kind.is_some_and(|kind| kind.starts_with("application/json")) {
        return response;
    }
    let (parts, body) = response.into_parts();
    let text = axum::body::to_bytes(body, ERROR_MAX).await.unwrap_or_default();
    let text = String::from_utf8_lossy(&text).trim().to_owned();
    let unknown = || status.canonical_reason().unwrap_or("the request is refused").to_owned();
    let mut answer = ApiError::new(status, if text.is_empty() { unknown() } else { text }).into_response();
    for (name, value) in &parts.headers {
        if ![header::CONTENT_TYPE, header::CONTENT_LENGTH].contains(name) {
            answer.headers_mut().append(name, value.clone());
        }
    }
    answer
}

/// Whether the request carries the right password.
async fn check(app: &App, connection: &Connection, headers: &HeaderMap) -> Result<(), Response> {
    let Some((user, password)) = credentials(headers) else {
        return Err(unauthorized("this call needs Basic authentication as user `backup`"));
    };
    let from = connection.from.ip().to_canonical();
    let (verifier, logged_in) = (Arc::clone(&app.verifier), connection.is_logged_in());
    let password_version = verifier.version();
    // Dropped with the connection: who guesses and hangs up makes nobody wait.
    let asking = Asking::default();
    let wanted = asking.wanted();
    let checked = tokio::task::spawn_blocking(move || {
        // Somebody else who guesses from the same address does not cut this one off.
        if logged_in && verifier.still_right(&user, &password) {
            return Outcome::Accepted;
        }
        verifier.verify_while(&user, &password, from, &wanted)
    });
    match checked.await {
        Ok(Outcome::Accepted) => match connection.log_in(password_version) {
            Ok(closes) => {
                closes.into_iter().for_each(|number| app.door.close(number));
                Ok(())
            }
            Err(Gone) => Err(displaced().into_response()),
        },
        Ok(Outcome::Rejected) => {
            tracing::warn!("wrong password from {from}");
            Err(unauthorized("wrong user or password"))
        }
        Ok(Outcome::Throttled { retry_after }) => {
            let seconds = retry_after.as_secs() + 1;
            tracing::warn!("too many wrong passwords, so one from {from} was not looked at");
            let error = format!("too many wrong passwords; try again in {seconds} s");
            let error = ApiError::new(StatusCode::TOO_MANY_REQUESTS, error);
            Err(([(header::RETRY_AFTER, seconds.to_string())], error).into_response())
        }
        Err(error) => Err(ApiError::internal(&error.into()).into_response()),
    }
}

/// Reads the body of a request, when there is room for it.
async fn admit(
    app: &App,
    connection: &Arc<Connection>,
    request: Request,
) -> Result<(Request, Busy), ApiError> {
    let (busy, closes) = connection.begin().map_err(|Gone| displaced())?;
    closes.into_iter().for_each(|number| app.door.close(number));
    let (parts, body) = request.into_parts();
    let large = parts.method == Method::PUT && parts.uri.path() == PEER;
    let (limit, _turn) = if large {
        let turn = tokio::time::timeout(LARGE_WAIT, app.large.0.acquire()).await;
        let turn = turn.map_err(|_| {
            ApiError::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "others are sending a pairing; try again in a second",
            )
        })?;
        (BODY_MAX, Some(turn))
    } else {
        (SMALL_BODY_MAX, None)
    };
    let read = tokio::time::timeout(app.door.deadlines().body, axum::body::to_bytes(body, limit));
    let body = read.await.map_err(|_| {
        ApiError::new(StatusCode::REQUEST_TIMEOUT, "the body did not come in time; try again")
    })?;
    let body = body.map_err(|error| {
        let problem = format!("the body cannot be read, or is longer than {limit} bytes: {error}");
        ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, problem)
    })?;
    Ok((Request::from_parts(parts, Body::from(body)), busy))
}

/// The answer on a connection that is about to be closed for another one.
fn displaced() -> ApiError {
    let why = "this connection is closed for another one; connect again";
    ApiError::new(StatusCode::SERVICE_UNAVAILABLE, why)
}

/// An answer, which ends its request when it has been sent.
#[derive(Debug)]
struct Answer {
    body: Body,
    _open: Open,
    _busy: Option<Busy>,
}

impl http_body::Body for Answer {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}

fn credentials(headers: &HeaderMap) -> Option<(String, String)> {
    let header = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, encoded) = header.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = base64::engine::general_purpose::STANDARD.decode(encoded.trim()).ok()?;
    let (user, password) = std::str::from_utf8(&decoded).ok()?.split_once(':')?;
    Some((user.to_owned(), password.to_owned()))
}

fn unauthorized(why: &str) -> Response {
    const CHALLENGE: [(HeaderName, &str); 1] = [(header::WWW_AUTHENTICATE, "Basic realm=\"backup-server\"")];
    (CHALLENGE, ApiError::new(StatusCode::UNAUTHORIZED, why)).into_response()
}

/// Reads a JSON body; an error names the field.
fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, ApiError> {
    let mut deserializer = serde_json::Deserializer::from_slice(body);
    let parsed = serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
        let problem = error.inner().to_string();
        let path = error.path().to_string();
        match field_of(&path, &problem) {
            Some(field) => ApiError::field(&field, format!("{field}: {problem}")),
            None => {
                ApiError::new(StatusCode::BAD_REQUEST, format!("the body is no JSON document: {problem}"))
            }
        }
    })?;
    deserializer.end().map_err(|error| {
        ApiError::new(StatusCode::BAD_REQUEST, format!("text after the JSON document: {error}"))
    })?;
    Ok(parsed)
}

/// The field that an error is about: by the path, or, where the path ends above it (a missing or unknown field), by the
/// name that serde puts between backticks.
fn field_of(path: &str, problem: &str) -> Option<String> {
    // "." is the document itself, "?" a place in a broken one.
    if !matches!(path, "." | "?") {
        return Some(path.to_owned());
    }
    let (_, after) = problem.split_once("field `")?;
    after.split_once('`').map(|(field, _)| field.to_owned())
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Refusal> + Send + 'static,
) -> Result<T, ApiError> {
    // Work goes on when its connection has ended: whoever asks and hangs up must not make it pile up.
    let turn = WORK.acquire().await.map_err(|error| ApiError::internal(&error.into()))?;
    let work = move || {
        let _turn = turn;
        work()
    };
    match tokio::task::spawn_blocking(work).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(refusal)) => Err(refusal.into()),
        Err(error) => Err(ApiError::internal(&error.into())),
    }
}

/// An error answer.
#[derive(Debug)]
struct ApiError {
    status: StatusCode,
    body: ErrorBody,
    /// Seconds until it may be tried again.
    retry_after: Option<u64>,
}

impl ApiError {
    fn new(status: StatusCode, error: impl Into<String>) -> Self {
        Self { status, body: ErrorBody { error: error.into(), field: None }, retry_after: None }
    }

    fn field(field: &str, error: String) -> Self {
        let body = ErrorBody { error, field: Some(field.into()) };
        Self { status: StatusCode::BAD_REQUEST, body, retry_after: None }
    }

    fn internal(error: &anyhow::Error) -> Self {
        tracing::error!("{error:#}");
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, format!("{error:#}"))
    }
}

impl From<Refusal> for ApiError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Missing(why) => Self::new(StatusCode::NOT_FOUND, why),
            Refusal::Forbidden(why) => Self::new(StatusCode::FORBIDDEN, why),
            Refusal::Conflict(why) => Self::new(StatusCode::CONFLICT, why),
            Refusal::TooMany(why, seconds) => {
                Self { retry_after: Some(seconds), ..Self::new(StatusCode::TOO_MANY_REQUESTS, why) }
            }
            Refusal::Unavailable(why) => Self::new(StatusCode::SERVICE_UNAVAILABLE, why),
            Refusal::Failed(error) => Self::internal(&error),
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let answer = (self.status, Json(self.body));
        match self.retry_after {
            Some(seconds) => ([(header::RETRY_AFTER, seconds.to_string())], answer).into_response(),
            None => answer.into_response(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn every_error_is_json_and_nothing_else_is_touched() {
        const ALLOW: [(HeaderName, &str); 1] = [(header::ALLOW, "GET")];
        let table = [
            ((StatusCode::BAD_REQUEST, "no number").into_response(), Some("no number")),
            (StatusCode::PAYLOAD_TOO_LARGE.into_response(), Some("Payload Too Large")),
            ((ALLOW, StatusCode::METHOD_NOT_ALLOWED).into_response(), Some("Method Not Allowed")),
            (ApiError::new(StatusCode::CONFLICT, "it is").into_response(), Some("it is")),
            ((StatusCode::OK, "text").into_response(), None),
        ];
        for (response, expected) in table {
            let (status, allow) = (response.status(), response.headers().get(header::ALLOW).cloned());
            let response = in_json(response).await;
            assert_eq!((response.status(), response.headers().get(header::ALLOW)), (status, allow.as_ref()));
            let body = axum::body::to_bytes(response.into_body(), ERROR_MAX).await.unwrap();
            match expected {
                Some(error) => {
                    assert_eq!(serde_json::from_slice::<ErrorBody>(&body).unwrap().error, error)
                }
                None => assert_eq!(&body[..], b"text"),
            }
        }
    }

    #[test]
    fn malformed_bodies_name_the_field() {
        let peer = r#"{"id":"00000000-0000-0000-0000-000000000001","version":"1","address":"a","port":"x"}"#;
        let table = [
            (peer, Some("port")),
            (r#"{"id":"x"}"#, Some("id")),
            (r#"{"version":"1"}"#, Some("id")),
            (r#"{"color":1}"#, Some("color")),
            ("{", None),
            ("", None),
        ];
        for (body, field) in table {
            let error = parse::<Peer>(body.as_bytes()).unwrap_err();
            assert_eq!(error.status, StatusCode::BAD_REQUEST);
            assert_eq!(error.body.field.as_deref(), field, "{body}: {}", error.body.error);
        }
        assert!(parse::<CreateBackup>(br#"{"comment":"x"} y"#).is_err());
    }

    #[test]
    fn basic_credentials_are_read() {
        let read = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::AUTHORIZATION, value.parse().unwrap());
            credentials(&headers)
        };
        assert_eq!(read("Basic YmFja3VwOmE6Yg=="), Some(("backup".into(), "a:b".into())));
        for other in ["Basic !", "Bearer YmFja3VwOmE6Yg==", "Basic", "Basic YQ=="] {
            assert_eq!(read(other), None, "{other}");
        }
    }
}
