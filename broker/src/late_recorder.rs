//! A recorder of metrics that is there at once.
//!
//! The one that keeps them takes between one and two hundred milliseconds to be made: its clock finds out how fast the
//! processor's is, again and again while other work comes in between. A broker that starts does not wait for that. What is
//! counted meanwhile is kept and handed on, and who asks for the metrics waits.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use metrics::{
    Counter, CounterFn, Gauge, GaugeFn, Histogram, HistogramFn, Key, KeyName, Level, Metadata, Recorder,
    SharedString, Unit,
};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle, PrometheusRecorder};
use tokio::sync::watch;

/// Changes that are kept until the recorder is there, a few hundred bytes each. Two hundred milliseconds of the busiest broker
/// have fewer; what is beyond is not counted.
const EARLY_MAX: usize = 1 << 16;

static METADATA: Metadata<'static> = Metadata::new(module_path!(), Level::INFO, Some(module_path!()));

/// A change that waits for the recorder.
type Early = Box<dyn FnOnce(&PrometheusRecorder) + Send>;

#[derive(Default)]
struct Late {
    recorder: OnceLock<PrometheusRecorder>,
    // Empty once the recorder is there.
    early: Mutex<Vec<Early>>,
}

impl Late {
    fn early(&self) -> MutexGuard<'_, Vec<Early>> {
        self.early.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn then(&self, change: impl FnOnce(&PrometheusRecorder) + Send + 'static) {
        let mut early = self.early();
        match self.recorder.get() {
            Some(recorder) => {
                drop(early);
                change(recorder);
            }
            None if early.len() < EARLY_MAX => early.push(Box::new(change)),
            None => {}
        }
    }

    fn becomes(&self, recorder: PrometheusRecorder) {
        // Held throughout: what comes at the same time is in order behind what came before.
        let mut early = self.early();
        for change in std::mem::take(&mut *early) {
            change(&recorder);
        }
        // There is no other: this is done once.
        drop(self.recorder.set(recorder));
    }
}

/// What somebody counts with who asked before the recorder was there, and perhaps keeps for long.
struct Held<T> {
    late: Arc<Late>,
    key: Key,
    register: fn(&PrometheusRecorder, &Key) -> T,
    registered: OnceLock<T>,
}

impl<T: Send + Sync + 'static> Held<T> {
    fn change(&self, change: impl Fn(&T) + Send + 'static) {
        if let Some(recorder) = self.late.recorder.get() {
            return change(self.registered.get_or_init(|| (self.register)(recorder, &self.key)));
        }
        let (key, register) = (self.key.clone(), self.register);
        self.late.then(move |recorder| change(&register(recorder, &key)));
    }
}

impl CounterFn for Held<Counter> {
    fn increment(&self, value: u64) {
        self.change(move |counter| counter.increment(value));
    }

    fn absolute(&self, value: u64) {
        self.change(move |counter| counter.absolute(value));
    }
}

impl GaugeFn for Held<Gauge> {
    fn increment(&self, value: f64) {
        self.change(move |gauge| gauge.increment(value));
    }

    fn decrement(&self, value: f64) {
        self.change(move |gauge| gauge.decrement(value));
    }

    fn set(&self, value: f64) {
        self.change(move |gauge| gauge.set(value));
    }
}

impl HistogramFn for Held<Histogram> {
    fn record(&self, value: f64) {
        self.change(move |histogram| histogram.record(value));
    }
}

/// See the top of this file.
#[derive(Clone, Default)]
pub struct LateRecorder(Arc<Late>);

impl std::fmt::Debug for LateRecorder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LateRecorder").finish_non_exhaustive()
    }
}

impl LateRecorder {
    /// Makes it the process's recorder, and begins to make the one that keeps what is counted, on a thread of the runtime.
    ///
    /// # Errors
    /// When the process has a recorder already.
    pub fn install() -> Result<MetricsText, metrics::SetRecorderError<Self>> {
        let recorder = Self::default();
        metrics::set_global_recorder(recorder.clone())?;
        let (made, text) = watch::channel(None);
        tokio::task::spawn_blocking(move || {
            let keeper = PrometheusBuilder::new().build_recorder();
            let handle = keeper.handle();
            recorder.0.becomes(keeper);
            made.send_replace(Some(handle));
        });
        Ok(MetricsText(Some(text)))
    }

    fn held<T>(&self, key: &Key, register: fn(&PrometheusRecorder, &Key) -> T) -> Arc<Held<T>> {
        let late = Arc::clone(&self.0);
        Arc::new(Held { late, key: key.clone(), register, registered: OnceLock::new() })
    }
}

impl Recorder for LateRecorder {
    fn describe_counter(&self, key: KeyName, unit: Option<Unit>, description: SharedString) {
        self.0.then(move |recorder| recorder.describe_counter(key, unit, description));
    }

    fn describe_gauge(&self, key: KeyName, unit: Option<Unit>, description: SharedString) {
        self.0.then(move |recorder| recorder.describe_gauge(key, unit, description));
    }

    fn describe_histogram(&self, key: KeyName, unit: Option<Unit>, description: SharedString) {
        self.0.then(move |recorder| recorder.describe_histogram(key, unit, description));
    }

    fn register_counter(&self, key: &Key, metadata: &Metadata<'_>) -> Counter {
        match self.0.recorder.get() {
            Some(recorder) => recorder.register_counter(key, metadata),
            None => {
                Counter::from_arc(self.held(key, |recorder, key| recorder.register_counter(key, &METADATA)))
            }
        }
    }

    fn register_gauge(&self, key: &Key, metadata: &Metadata<'_>) -> Gauge {
        match self.0.recorder.get() {
            Some(recorder) => recorder.register_gauge(key, metadata),
            None => Gauge::from_arc(self.held(key, |recorder, key| recorder.register_gauge(key, &METADATA))),
        }
    }

    fn register_histogram(&self, key: &Key, metadata: &Metadata<'_>) -> Histogram {
        match self.0.recorder.get() {
            Some(recorder) => recorder.register_histogram(key, metadata),
            None => Histogram::from_arc(
                self.held(key, |recorder, key| recorder.register_histogram(key, &METADATA)),
            ),
        }
    }
}

/// What `/metrics` shows.
#[derive(Clone, Debug, Default)]
pub struct MetricsText(Option<watch::Receiver<Option<PrometheusHandle>>>);

impl MetricsText {
    /// Everything that is counted, once it is; nothing where no recorder is installed.
    pub async fn render(&self) -> String {
        let Some(mut handle) = self.0.clone() else { return String::new() };
        let there = handle.wait_for(Option::is_some).await;
        there.ok().and_then(|handle| handle.as_ref().map(PrometheusHandle::render)).unwrap_or_default()
    }
}

impl From<PrometheusHandle> for MetricsText {
    fn from(handle: PrometheusHandle) -> Self {
        Self(Some(watch::channel(Some(handle)).1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_counted_before_the_recorder_was_there_is_counted_and_what_was_kept_goes_on() {
        let late = LateRecorder::default();
        let keeper = PrometheusBuilder::new().build_recorder();
        let handle = keeper.handle();
        let key = |name: &'static str| Key::from_name(name);
        late.describe_counter("done".into(), None, "What is done.".into());
        let counter = late.register_counter(&key("done"), &METADATA);
        let gauge = late.register_gauge(&key("level"), &METADATA);
        let histogram = late.register_histogram(&key("took"), &METADATA);
        let change = || {
            counter.increment(2);
            gauge.set(7.0);
            gauge.increment(3.0);
            gauge.decrement(1.0);
            histogram.record(0.5);
        };
        change();
        late.0.becomes(keeper);
        change();
        late.register_counter(&key("done"), &METADATA).increment(1);
        let text = handle.render();
        for line in ["# HELP done What is done.", "done 5", "level 9", "took_count 2"] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
        assert!(late.0.early().is_empty());
    }

    #[test]
    fn no_more_is_kept_than_there_is_room_for() {
        let late = LateRecorder::default();
        let counter = late.register_counter(&Key::from_name("done"), &METADATA);
        for _ in 0..EARLY_MAX + 10 {
            counter.increment(1);
        }
        assert_eq!(late.0.early().len(), EARLY_MAX);
    }

    #[test]
    fn what_many_count_while_it_comes_is_counted_once() {
        let late = LateRecorder::default();
        let keeper = PrometheusBuilder::new().build_recorder();
        let handle = keeper.handle();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let counter = late.register_counter(&Key::from_name("done"), &METADATA);
                    (0..1000).for_each(|_| counter.increment(1));
                });
            }
            late.0.becomes(keeper);
        });
        assert!(handle.render().lines().any(|line| line == "done 4000"), "{}", handle.render());
    }

    #[tokio::test]
    async fn who_asks_early_waits() {
        let (made, text) = watch::channel(None);
        let text = MetricsText(Some(text));
        let asked = tokio::spawn(async move { text.render().await });
        let keeper = PrometheusBuilder::new().build_recorder();
        keeper.register_counter(&Key::from_name("done"), &METADATA).increment(1);
        made.send_replace(Some(keeper.handle()));
        assert!(asked.await.unwrap().contains("done 1"));
        assert_eq!(MetricsText::default().render().await, "");
    }
}
