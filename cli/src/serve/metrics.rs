//! `GET /metrics`: what the server did and what it looks after, for Prometheus.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{MatchedPath, Request, State};
use axum::http::Method;
use axum::middleware::Next;
use axum::response::Response;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::census::Census;

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

/// Every metric, with the registry that names them.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    requests: Family<RequestLabels, Counter>,
    sent_bytes: Family<RouteLabels, Counter>,
    in_flight: Gauge,
    machines: Family<StateLabels, Gauge>,
    runs: Family<StateLabels, Gauge>,
    leases: Gauge,
}

impl Metrics {
    /// All at zero, with what the services count themselves.
    pub fn new(
        controller: &controller::Metrics,
        store: Arc<store_registry::Metrics>,
        boot: Option<Arc<bootsvc_server::Counters>>,
    ) -> Arc<Metrics> {
        let mut metrics = Metrics {
            registry: Registry::with_prefix("ingot"),
            requests: Family::default(),
            sent_bytes: Family::default(),
            in_flight: Gauge::default(),
            machines: Family::default(),
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
        registry.register("machines", "Machines on record by state", metrics.machines.clone());
        registry.register("runs", "Newest runs by state", metrics.runs.clone());
        registry.register("leases", "DHCP leases in force", metrics.leases.clone());
        controller.register(registry);
        registry.register_collector(Box::new(Services { store, boot }));
        Arc::new(metrics)
    }

    /// The text that Prometheus reads.
    pub fn text(&self, census: &Census) -> Result<String, std::fmt::Error> {
        for (family, counts) in [(&self.machines, &census.machines), (&self.runs, &census.runs)] {
            family.clear();
            for (state, count) in counts {
                let labels = StateLabels { state: state.clone() };
                family.get_or_create(&labels).set(gauge(*count));
            }
        }
        self.leases.set(gauge(census.leases));
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

fn gauge(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// Counts that services keep in their own form.
struct Services {
    store: Arc<store_registry::Metrics>,
    boot: Option<Arc<bootsvc_server::Counters>>,
}

impl fmt::Debug for Services {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Services")
    }
}

impl Collector for Services {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let store = self.store.snapshot();
        let mut counts = vec![
            ("store_pack_bytes", "Bytes of packs handed out", store.pack_bytes),
            ("store_pack_requests", "Requests for packs answered", store.pack_requests),
            ("store_image_requests", "Requests for images answered", store.image_requests),
            ("store_upload_bytes", "Bytes of frames that uploads brought", store.upload_bytes),
            ("store_failed_requests", "Requests of images and packs failed", store.failed_requests),
        ];
        if let Some(boot) = self.boot.as_ref().map(|boot| boot.read()) {
            let dhcp = boot.dhcp;
            let tftp_bytes = boot.tftp.values().map(|file| file.bytes).sum();
            let tftp_requests = boot.tftp.values().map(|file| file.requests).sum();
            counts.extend([
                ("dhcp_received", "DHCP datagrams received", dhcp.received),
                ("dhcp_offers", "DHCP offers sent", dhcp.offers),
                ("dhcp_acks", "DHCP acknowledgements sent", dhcp.acks),
                ("dhcp_naks", "DHCP refusals sent", dhcp.naks),
                ("dhcp_unanswered", "DHCP requests not answered", dhcp.unanswered),
                ("dhcp_broken", "Datagrams that were no DHCP requests", dhcp.broken),
                ("dhcp_dropped", "DHCP requests dropped under load", dhcp.dropped),
                ("tftp_requests", "TFTP transfers completed", tftp_requests),
                ("tftp_sent_bytes", "Bytes of these", tftp_bytes),
                ("tftp_failed", "TFTP transfers broken off", boot.tftp_failed),
                ("ra_sent", "Router advertisements sent", boot.advertisements),
            ]);
        }
        for (name, help, count) in counts {
            let counter = ConstCounter::new(count);
            let metric = encoder.encode_descriptor(name, help, None, counter.metric_type())?;
            counter.encode(metric)?;
        }
        Ok(())
    }
}

/// Counts every request that passes, and every byte of its answer as it leaves.
pub async fn count(State(metrics): State<Arc<Metrics>>, request: Request, next: Next) -> Response {
    let route = request
        .extensions()
        .get::<MatchedPath>()
        .map_or_else(|| "none".to_owned(), |path| path.as_str().to_owned());
    let method = known(request.method()).to_owned();
    let in_work = InWork::new(&metrics.in_flight);
    let response = next.run(request).await;
    drop(in_work);
    let status = response.status().as_u16();
    let labels = RequestLabels { method, route: route.clone(), status };
    metrics.requests.get_or_create(&labels).inc();
    let sent = metrics.sent_bytes.get_or_create(&RouteLabels { route }).clone();
    response.map(|inner| Body::new(Counted { inner, sent }))
}

/// A method as a label: of those that somebody made up, none has one of its own.
fn known(method: &Method) -> &str {
    let known = [Method::GET, Method::HEAD, Method::POST, Method::PUT, Method::DELETE];
    if known.contains(method) { method.as_str() } else { "other" }
}

/// One request in work; also one whose client goes away, which ends `count` at
/// its `await`.
struct InWork(Gauge);

impl InWork {
    fn new(gauge: &Gauge) -> InWork {
        gauge.inc();
        InWork(gauge.clone())
    }
}

impl Drop for InWork {
    fn drop(&mut self) {
        self.0.dec();
    }
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
    use std::time::Duration;

    use axum::routing::get;
    use axum::{Router, middleware};
    use tokio::io::AsyncWriteExt;
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn a_client_that_goes_away_is_no_request_in_work() {
        let metrics = Metrics::new(&controller::Metrics::default(), Arc::default(), None);
        let in_flight = metrics.in_flight.clone();
        let router = Router::new()
            .route("/", get(std::future::pending::<()>))
            .layer(middleware::from_fn_with_state(metrics, count));
        crate::runtime::build().unwrap().block_on(async {
            let until = async |wanted: i64| {
                for _ in 0..500 {
                    if in_flight.get() == wanted {
                        return;
                    }
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                panic!("{} in flight, not {wanted}", in_flight.get());
            };
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            tokio::spawn(async move { axum::serve(listener, router).await });
            let mut client = TcpStream::connect(address).await.unwrap();
            client.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
            until(1).await;
            drop(client);
            until(0).await;
        });
    }

    #[test]
    fn methods_that_somebody_made_up_share_a_label() {
        let of = |method: &str| known(&Method::from_bytes(method.as_bytes()).unwrap()).to_owned();
        let made_up = ["get", "PROPFIND", "X1", "X2"].map(of);
        assert_eq!(made_up, ["other"; 4]);
        assert_eq!(["GET", "PUT"].map(of), ["GET", "PUT"]);
    }

    #[test]
    fn the_text_names_everything_that_is_looked_after() {
        let counts = |word: &str, count| [(word.to_owned(), count)].into_iter().collect();
        let census =
            Census { machines: counts("held", 2), runs: counts("transferring", 1), leases: 3 };
        let boot = Some(Arc::default());
        let metrics = Metrics::new(&controller::Metrics::default(), Arc::default(), boot);
        let text = metrics.text(&census).unwrap();
        for line in [
            "ingot_machines{state=\"held\"} 2",
            "ingot_runs{state=\"transferring\"} 1",
            "ingot_leases 3",
            "ingot_controller_check_ins_total 0",
            "ingot_store_pack_bytes_total 0",
            "ingot_dhcp_offers_total 0",
            "# EOF",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
        }
        let text = metrics.text(&Census::default()).unwrap();
        assert!(!text.contains("held"), "a state without machines is gone");
    }
}
