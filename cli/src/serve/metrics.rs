//! `GET /metrics`: what the server did and what it looks after, for Prometheus.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::Response;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// Media type of the answer.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Labels of one kind of request. Routes, not paths: there are few of them.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    method: String,
    route: String,
    status: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RouteLabels {
    route: String,
}

/// Labels of runs.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StateLabels {
    state: String,
}

/// What is looked after, counted when somebody asks.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Census {
    /// Machines that ever checked in.
    pub machines: u64,
    /// Runs by the name of their state.
    pub runs: Vec<(String, u64)>,
    /// DHCP leases that have not ended.
    pub leases: u64,
}

/// Every metric, with the registry that names them.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    requests: Family<RequestLabels, Counter>,
    sent_bytes: Family<RouteLabels, Counter>,
    in_flight: Gauge,
    machines: Gauge,
    runs: Family<StateLabels, Gauge>,
    leases: Gauge,
}

impl Metrics {
    /// All at zero.
    pub fn new() -> Arc<Metrics> {
        let mut metrics = Metrics {
            registry: Registry::with_prefix("ingot"),
            requests: Family::default(),
            sent_bytes: Family::default(),
            in_flight: Gauge::default(),
            machines: Gauge::default(),
            runs: Family::default(),
            leases: Gauge::default(),
        };
        let registry = &mut metrics.registry;
        registry.register("http_requests", "HTTP requests answered", metrics.requests.clone());
        registry.register(
            "http_sent_bytes",
            "Bytes of HTTP bodies sent; route /v1/packs/{pack} is image content",
            metrics.sent_bytes.clone(),
        );
        registry.register("http_in_flight", "HTTP requests in work", metrics.in_flight.clone());
        registry.register("machines", "Machines on record", metrics.machines.clone());
        registry.register("runs", "Runs on record by state", metrics.runs.clone());
        registry.register("leases", "DHCP leases in force", metrics.leases.clone());
        Arc::new(metrics)
    }

    /// The text that Prometheus reads.
    pub fn text(&self, census: &Census) -> Result<String, std::fmt::Error> {
        let gauge = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        self.machines.set(gauge(census.machines));
        self.leases.set(gauge(census.leases));
        for (state, count) in &census.runs {
            self.runs.get_or_create(&StateLabels { state: state.clone() }).set(gauge(*count));
        }
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

/// Counts every request that passes, and every byte of its answer as it leaves.
pub async fn count(State(metrics): State<Arc<Metrics>>, request: Request, next: Next) -> Response {
    let route = request
        .extensions()
        .get::<MatchedPath>()
        .map_or_else(|| "none".to_owned(), |path| path.as_str().to_owned());
    let method = request.method().as_str().to_owned();
    metrics.in_flight.inc();
    let response = next.run(request).await;
    metrics.in_flight.dec();
    let status = response.status().as_u16();
    let labels = RequestLabels { method, route: route.clone(), status };
    metrics.requests.get_or_create(&labels).inc();
    let sent = metrics.sent_bytes.get_or_create(&RouteLabels { route }).clone();
    response.map(|inner| Body::new(Counted { inner, sent }))
}

/// A body that counts what leaves it.
struct Counted {
    inner: Body,
    sent: Counter,
}

impl HttpBody for Counted {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, axum::Error>>> {
        let polled = Pin::new(&mut self.inner).poll_frame(context);
        if let Poll::Ready(Some(Ok(frame))) = &polled
            && let Some(data) = frame.data_ref()
        {
            self.sent.inc_by(data.len() as u64);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.inner.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_names_everything_that_is_looked_after() {
        let census =
            Census { machines: 2, runs: vec![("running".to_owned(), 1)], leases: 3 };
        let text = Metrics::new().text(&census).unwrap();
        for line in
            ["ingot_machines 2", "ingot_runs{state=\"running\"} 1", "ingot_leases 3", "# EOF"]
        {
            assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
        }
    }
}
