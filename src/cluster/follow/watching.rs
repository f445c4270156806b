//! One list and then one watch, for as long as anybody wants to know.
//!
//! A watch that ends is resumed where it ended, and only what can't be resumed is listed again. Where there is no right
//! to watch, this asks now and then.

use std::collections::VecDeque;
use std::future::pending;
use std::pin::Pin;
use std::time::Duration;

use futures_util::{Stream, StreamExt, stream};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ListMeta;
use kube::Client;
use kube::api::{GetParams, ListParams, Request, WatchEvent, WatchParams};
use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};

use super::backoff::{Backoff, Random};
use super::facts::{Kept, Written};
use crate::cluster::RequestError;
use crate::cluster::http::Unreachable;
use crate::untrusted::printable;

/// Objects in one answer; client-go's pager has the same number.
const PAGE: u32 = 500;

/// A server that never comes to the end of a list is not believed; this is more than a cluster can have in pods.
const PAGES: u32 = 1000;

/// How long a watch is asked to go on, in seconds. A network that has gone without a word is noticed after that.
const WATCH: (u32, u32) = (180, 290);

/// How long after that a server may take to end it.
const GRACE: Duration = Duration::from_secs(10);

/// A watch that lived for less has to wait before the next one: some server ends every watch at once.
const SHORT: Duration = Duration::from_secs(1);

/// No more than one list in this time, however often somebody asks for it.
const BETWEEN_LISTS: Duration = Duration::from_secs(1);

/// How long to believe an answer where watching is not allowed, and a refusal.
pub(super) const SLOW: Duration = Duration::from_secs(30);

/// After so many answers of that kind watching is tried again: rights may have been given.
const LISTS_BEFORE_A_WATCH: u32 = 20;

/// How long an answer may take at first; each time that there is none it is twice as long.
const ANSWER: Duration = Duration::from_secs(10);

/// The same after a refresh: then a kept connection may have died while the machine slept, and would say nothing.
const ANSWER_TO_A_REFRESH: Duration = Duration::from_secs(2);

/// How long a slow server gets in the end; API servers themselves give up after a minute.
const LONGEST_ANSWER: Duration = Duration::from_secs(60);

const GONE: u16 = 410;

/// What has become known.
#[derive(Debug)]
pub(super) enum Event<T> {
    /// This is all there is.
    Listed(Vec<T>),
    /// It is new or has changed.
    Changed(T),
    /// It is gone.
    Removed {
        name: String,
        /// Empty where the server didn't tell.
        uid: String,
    },
    /// The watch goes on.
    Watching,
    /// There is no right to watch.
    Unwatched(RequestError),
    /// The cluster can't be asked, or refuses. It is asked again later.
    Failed(RequestError),
}

/// Which objects.
#[derive(Clone, Debug)]
pub(super) struct Which {
    /// The path of their kind.
    pub(super) path: String,
    /// Only this one.
    pub(super) name: Option<String>,
    /// Only these.
    pub(super) labels: Option<String>,
}

/// Events without end. Dropping it ends the watch.
pub(super) type Events<T> = Pin<Box<dyn Stream<Item = Event<T>> + Send>>;

/// Begins to list and watch objects of kind `K`; `read` takes from each what is kept.
pub(super) fn events<K, T>(
    client: Client,
    which: Which,
    refreshes: watch::Receiver<u64>,
    read: impl Fn(K) -> Option<T> + Send + 'static,
) -> Events<T>
where
    K: Written,
    T: Kept + Send + 'static,
{
    let watching = Watching {
        client,
        named: which
            .name
            .as_deref()
            .map(|name| format!("metadata.name={name}")),
        which,
        read: Box::new(read),
        refreshes,
        asked: Instant::now(),
        backoff: Backoff::new(Random::new()),
        in_haste: false,
        may_list: true,
        lists_to_go: 0,
        step: Step::Ask,
        told: VecDeque::new(),
    };
    Box::pin(stream::unfold(watching, async |mut watching| {
        Some((watching.next().await, watching))
    }))
}

struct Watching<K, T> {
    client: Client,
    which: Which,
    /// A field selector.
    named: Option<String>,
    read: Box<dyn Fn(K) -> Option<T> + Send>,
    refreshes: watch::Receiver<u64>,
    /// When the last list was asked for.
    asked: Instant,
    backoff: Backoff,
    /// Whether a refresh has no answer yet.
    in_haste: bool,
    /// Otherwise the one object is got by its name.
    may_list: bool,
    /// How many more before watching is tried again; zero where it is allowed.
    lists_to_go: u32,
    step: Step<K>,
    /// What follows the event that is returned now.
    told: VecDeque<Event<T>>,
}

enum Step<K> {
    Ask,
    /// Watch from this version on.
    Watch(String),
    Read(Open<K>),
    /// Then watch from this version on, or ask.
    Wait(Duration, Option<String>),
}

struct Open<K> {
    #[expect(clippy::type_complexity, reason = "this struct is its name")]
    events: Pin<Box<dyn Stream<Item = kube::Result<WatchEvent<Lenient<K>>>> + Send>>,
    version: String,
    opened: Instant,
    deadline: Instant,
}

impl<K: Written, T: Kept> Watching<K, T> {
    async fn next(&mut self) -> Event<T> {
        loop {
            if let Some(event) = self.told.pop_front() {
                return event;
            }
            let step = std::mem::replace(&mut self.step, Step::Ask);
            self.step = match step {
                Step::Ask => self.ask().await,
                Step::Watch(version) => self.open(version).await,
                Step::Read(open) => self.read_on(open).await,
                Step::Wait(delay, version) => tokio::select! {
                    () = sleep(delay) => version.map_or(Step::Ask, Step::Watch),
                    () = refreshed(&mut self.refreshes, self.asked) => self.refresh(),
                },
            };
        }
    }

    fn refresh(&mut self) -> Step<K> {
        self.in_haste = true;
        self.backoff.reset();
        Step::Ask
    }

    async fn ask(&mut self) -> Step<K> {
        self.refreshes.mark_unchanged();
        self.asked = Instant::now();
        let mut found = match self.may_list {
            true => self.list().await,
            false => self.get().await,
        };
        if let (Some(_), Err(error)) = (&self.which.name, &found)
            && self.may_list
            && error.is_forbidden()
        {
            // a role may well be allowed to get an object but not to list it
            let got = self.get().await;
            if let Ok((items, _)) = got {
                self.may_list = false;
                self.told.push_back(Event::Listed(items));
                return self.without_watch(found.err());
            }
            found = got;
        }
        match found {
            Ok((items, version)) => {
                self.told.push_back(Event::Listed(items));
                match self.lists_to_go {
                    0 | 1 => Step::Watch(version),
                    _ => {
                        self.lists_to_go -= 1;
                        Step::Wait(SLOW, None)
                    }
                }
            }
            Err(RequestError::Status { code: GONE, .. }) => {
                // the list has changed between two pages
                Step::Wait(self.backoff.after_failure(), None)
            }
            Err(error) => {
                let delay = self.after_failure(&error);
                self.told.push_back(Event::Failed(error));
                Step::Wait(delay, None)
            }
        }
    }

    async fn open(&mut self, version: String) -> Step<K> {
        if !self.may_list {
            // there is no version to watch from: find out whether there is a right to list by now
            self.may_list = true;
            self.lists_to_go = 0;
            return Step::Ask;
        }
        let (from, to) = WATCH;
        let seconds = self.backoff.random().within(from, to);
        let params = WatchParams {
            label_selector: self.which.labels.clone(),
            field_selector: self.named.clone(),
            timeout: Some(seconds),
            bookmarks: true,
            send_initial_events: false,
        };
        let limit = self.answer_limit();
        let request = match Request::new(&*self.which.path).watch(&params, &version) {
            Ok(request) => request,
            Err(error) => return self.failed(RequestError::Invalid(error.to_string()), version),
        };
        let opened = Instant::now();
        match timeout(limit, self.client.request_events(request)).await {
            Ok(Ok(events)) => {
                self.lists_to_go = 0;
                self.told.push_back(Event::Watching);
                Step::Read(Open {
                    events: Box::pin(events),
                    version,
                    opened,
                    deadline: opened + Duration::from_secs(seconds.into()) + GRACE,
                })
            }
            Ok(Err(kube::Error::Api(status))) if status.code == GONE => {
                self.after_watch(opened, None)
            }
            Ok(Err(error)) => match RequestError::from(error) {
                error if error.is_forbidden() => self.without_watch(Some(error)),
                error => self.failed(error, version),
            },
            Err(_) => self.failed(no_answer(limit), version),
        }
    }

    async fn read_on(&mut self, mut open: Open<K>) -> Step<K> {
        let event = tokio::select! {
            event = timeout_at(open.deadline, open.events.next()) => event,
            () = refreshed(&mut self.refreshes, self.asked) => return self.refresh(),
        };
        let Ok(Some(event)) = event else {
            // at its end, or silent for longer than it was to last
            return self.after_watch(open.opened, Some(open.version));
        };
        match event {
            Ok(WatchEvent::Added(object) | WatchEvent::Modified(object)) => {
                if let Some(object) = object.readable() {
                    note_version(&mut open.version, &object);
                    self.told.extend((self.read)(object).map(Event::Changed));
                }
            }
            Ok(WatchEvent::Deleted(object)) => {
                if let Some(object) = object.readable() {
                    note_version(&mut open.version, &object);
                    let metadata = object.metadata();
                    self.told.push_back(Event::Removed {
                        name: metadata.name.clone().unwrap_or_default(),
                        uid: metadata.uid.clone().unwrap_or_default(),
                    });
                }
            }
            Ok(WatchEvent::Bookmark(bookmark)) => open.version = bookmark.metadata.resource_version,
            // whatever it is, client-go lists again too
            Ok(WatchEvent::Error(_)) => return self.after_watch(open.opened, None),
            Err(kube::Error::Api(status)) if status.code != 0 => {
                return self.after_watch(open.opened, None);
            }
            // a line that makes no sense; kube takes any JSON object for a Status
            Err(kube::Error::SerdeError(_) | kube::Error::Api(_)) => {}
            Err(_) => return self.after_watch(open.opened, Some(open.version)),
        }
        Step::Read(open)
    }

    /// The next step after a watch that worked: at once, unless it was very short.
    fn after_watch(&mut self, opened: Instant, version: Option<String>) -> Step<K> {
        if opened.elapsed() < SHORT {
            return Step::Wait(self.backoff.after_failure(), version);
        }
        self.backoff.reset();
        version.map_or(Step::Ask, Step::Watch)
    }

    fn failed(&mut self, error: RequestError, version: String) -> Step<K> {
        let delay = self.after_failure(&error);
        self.told.push_back(Event::Failed(error));
        Step::Wait(delay, Some(version))
    }

    fn without_watch(&mut self, error: Option<RequestError>) -> Step<K> {
        self.lists_to_go = LISTS_BEFORE_A_WATCH;
        self.told.extend(error.map(Event::Unwatched));
        Step::Wait(SLOW, None)
    }

    /// A refusal is worth no more than an occasional question. But 401 is not one: there may be new credentials.
    fn after_failure(&mut self, error: &RequestError) -> Duration {
        let delay = self.backoff.after_failure();
        match error.is_forbidden() || error.is_not_found() {
            true => SLOW,
            false => delay,
        }
    }

    /// Everything there is, page by page, and the version that it is of.
    async fn list(&mut self) -> Result<(Vec<T>, String), RequestError> {
        let mut params = ListParams {
            label_selector: self.which.labels.clone(),
            field_selector: self.named.clone(),
            limit: Some(PAGE),
            ..ListParams::default()
        };
        let mut items = Vec::new();
        for _ in 0..PAGES {
            let request = Request::new(&*self.which.path).list(&params);
            let page: Page<K> = self.answer(request).await?;
            let objects = page.items.into_iter().flatten();
            let objects = objects.filter_map(Lenient::readable);
            items.extend(objects.filter_map(&self.read));
            let next = page.metadata.continue_.filter(|next| !next.is_empty());
            if next.is_none() {
                return Ok((items, page.metadata.resource_version.unwrap_or_default()));
            }
            params.continue_token = next;
        }
        let reason = "the server's list has no end".to_owned();
        Err(RequestError::Invalid(reason))
    }

    /// The one object, or nothing; without a version to watch from.
    async fn get(&mut self) -> Result<(Vec<T>, String), RequestError> {
        let name = self.which.name.as_deref().unwrap_or_default();
        let request = Request::new(&*self.which.path).get(name, &GetParams::default());
        match self.answer::<Lenient<K>>(request).await {
            Ok(object) => {
                let item = object.readable().and_then(&self.read);
                Ok((Vec::from_iter(item), String::new()))
            }
            Err(error) if error.is_not_found() => Ok((Vec::new(), String::new())),
            Err(error) => Err(error),
        }
    }

    async fn answer<A: DeserializeOwned>(
        &mut self,
        request: Result<http::Request<Vec<u8>>, kube::core::request::Error>,
    ) -> Result<A, RequestError> {
        let request = request.map_err(|error| RequestError::Invalid(error.to_string()))?;
        let limit = self.answer_limit();
        let text = timeout(limit, self.client.request_text(request)).await;
        let text = text.map_err(|_| no_answer(limit))?;
        self.in_haste = false;
        let text = text?;
        serde_json::from_str(&text).map_err(|error| {
            let reason = printable(&error.to_string(), 200);
            RequestError::Invalid(format!(
                "the server's answer cannot be understood: {reason}"
            ))
        })
    }

    fn answer_limit(&self) -> Duration {
        let first = match self.in_haste {
            true => ANSWER_TO_A_REFRESH,
            false => ANSWER,
        };
        let doubled = first.saturating_mul(2_u32.saturating_pow(self.backoff.failures()));
        doubled.min(LONGEST_ANSWER)
    }
}

/// Until somebody wants to know again, and it is not too soon. Cancel safe: the wish stands until it is returned.
async fn refreshed(refreshes: &mut watch::Receiver<u64>, asked: Instant) {
    sleep_until(asked + BETWEEN_LISTS).await;
    if refreshes.changed().await.is_err() {
        pending::<()>().await;
    }
}

fn note_version(version: &mut String, object: &impl Written) {
    if let Some(newer) = &object.metadata().resource_version {
        version.clone_from(newer);
    }
}

fn no_answer(limit: Duration) -> RequestError {
    RequestError::Unreachable(Unreachable::Lost {
        reason: format!("no answer within {limit:?}"),
    })
}

#[derive(Deserialize)]
#[serde(bound = "K: DeserializeOwned")]
struct Page<K> {
    #[serde(default)]
    metadata: ListMeta,
    items: Option<Vec<Lenient<K>>>,
}

/// An object, or something that makes no sense as one.
#[derive(Clone, Deserialize)]
#[serde(untagged, bound = "K: DeserializeOwned")]
enum Lenient<K> {
    Readable(K),
    Unreadable(IgnoredAny),
}

impl<K> Lenient<K> {
    fn readable(self) -> Option<K> {
        match self {
            Self::Readable(object) => Some(object),
            Self::Unreadable(_) => None,
        }
    }
}

#[cfg(test)]
mod tests;
