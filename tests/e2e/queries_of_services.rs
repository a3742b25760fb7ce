//! Answers of a real Prometheus to the queries about services, meshes and protocols of docs/queries.md, against what applications
//! know: pods of two zones behind a service address, a sidecar, and requests to nginx.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::daemon::{Daemon, Launch, WAIT_TIMEOUT};
use crate::inspect::{curl, nginx};
use crate::kubernetes::Api;
use crate::netns::Namespace;
use crate::peers::ask_until;
use crate::queries::{Answers, families, near, of, parts, questions, values};
use crate::require;
use crate::stores::Store;
use crate::translation::{BACKENDS, Net};

/// Connections to the service.
const CONNECTIONS: usize = 6;
/// Messages of a connection in a round, and the bytes of each.
const MESSAGES: usize = 20;
const BYTES: usize = 500;

/// A client and a server of one zone, and a server of another behind a service.
fn cluster() -> Vec<(&'static str, Vec<Value>)> {
    let node = |name: &str, zone: &str, range: &str| {
        let labels = json!({"topology.kubernetes.io/zone": zone});
        (
            "/api/v1/nodes",
            vec![json!({"metadata": {"name": name, "labels": labels}, "spec": {"podCIDR": range}})],
        )
    };
    let pod = |name: &str, node: &str, ip: &str| {
        let object = json!({
            "metadata": {"name": name, "namespace": "shop", "labels": {"app": name}},
            "spec": {"nodeName": node, "containers": []},
            "status": {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}]}
        });
        ("/api/v1/pods", vec![object])
    };
    let service = json!({
        "metadata": {"name": "cart", "namespace": "shop"},
        "spec": {"clusterIP": "10.96.0.10", "clusterIPs": ["10.96.0.10"], "selector": {"app": "cart"}}
    });
    let range = json!({"metadata": {"name": "kubernetes"}, "spec": {"cidrs": ["10.96.0.0/16"]}});
    vec![
        node("north", "zone-a", "10.77.11.0/24"),
        node("south", "zone-b", "10.77.12.0/24"),
        pod("web", "north", "10.77.11.2"),
        pod("near", "north", "10.77.11.1"),
        pod("cart", "south", "10.77.12.2"),
        ("/api/v1/services", vec![service]),
        ("/apis/networking.k8s.io/v1/servicecidrs", vec![range]),
    ]
}

/// Both ends of a connection, of which the client is in one namespace.
struct Pair([TcpStream; 2]);

impl Pair {
    /// Sends a message to the server.
    fn send(&mut self) {
        self.0[0].write_all(&[b'x'; BYTES]).unwrap();
    }

    /// Sends it back.
    fn answer(&mut self) {
        let mut message = [0; BYTES];
        let [client, server] = &mut self.0;
        server.read_exact(&mut message).unwrap();
        server.write_all(&message).unwrap();
        client.read_exact(&mut message).unwrap();
    }
}

/// The traffic; all connections stay open.
struct Traffic {
    /// With nginx and its clients.
    web: Namespace,
    to_service: Vec<Pair>,
    to_near: Pair,
    /// The application to its sidecar, and that to the server.
    legs: [Pair; 2],
}

fn accept(listeners: &[TcpListener]) -> TcpStream {
    let deadline = Instant::now() + WAIT_TIMEOUT;
    loop {
        assert!(Instant::now() < deadline, "nobody connects");
        for listener in listeners {
            listener.set_nonblocking(true).unwrap();
            if let Ok((stream, _)) = listener.accept() {
                stream.set_nonblocking(false).unwrap();
                return stream;
            }
        }
        thread::sleep(Duration::from_millis(1));
    }
}

impl Traffic {
    /// Connects, so that the daemon sees the handshakes.
    fn open(net: &Net, web: Namespace) -> Self {
        let backends: Vec<_> = net.server.run(|| {
            BACKENDS
                .map(|port| TcpListener::bind(("10.77.12.2", port)).unwrap())
                .into()
        });
        let connect = |to: &str| {
            let to: SocketAddr = to.parse().unwrap();
            net.client.run(|| TcpStream::connect(to).unwrap())
        };
        let to_service = (0..CONNECTIONS)
            .map(|_| Pair([connect("10.96.0.10:80"), accept(&backends)]))
            .collect();
        let near = net.node.run(|| TcpListener::bind("10.77.11.1:9000").unwrap());
        let to_near = Pair([connect("10.77.11.1:9000"), accept(&[near])]);
        net.client.sh(
            "nft 'table ip mesh { chain out { type nat hook output priority -100; \
             tcp dport 8080 tcp sport != 15002 redirect to :15001; }; }'",
        );
        let (server, sidecar) = (
            net.server.run(|| TcpListener::bind("10.77.12.2:8080").unwrap()),
            net.client.run(|| TcpListener::bind("127.0.0.1:15001").unwrap()),
        );
        let inner = Pair([connect("10.77.12.2:8080"), accept(&[sidecar])]);
        let onward = net
            .client
            .run(|| crate::sock_diag::from_port(15_002, "10.77.12.2:8080".parse().unwrap()));
        let outer = Pair([onward, accept(&[server])]);
        Self {
            web,
            to_service,
            to_near,
            legs: [inner, outer],
        }
    }

    fn round(&mut self) {
        for _ in 0..MESSAGES {
            let near = std::iter::once(&mut self.to_near);
            let pairs = self.to_service.iter_mut().chain(near).chain(&mut self.legs);
            let mut pairs: Vec<_> = pairs.collect();
            for pair in &mut pairs {
                pair.send();
            }
            // The end behind an address is known of a connection with something in flight.
            thread::sleep(Duration::from_millis(15));
            for pair in &mut pairs {
                pair.answer();
            }
        }
        self.web.run(|| {
            curl(&["--http1.1", "http://127.0.0.1:8080/[1-20]"]);
            curl(&["--http1.1", "https://api.example.test:8443/[1-10]"]);
        });
    }

    /// Ports of the backends that the connections to the service are of.
    fn backends(&self) -> BTreeSet<String> {
        let ports = self
            .to_service
            .iter()
            .map(|pair| pair.0[1].local_addr().unwrap().port());
        ports.map(|port| port.to_string()).collect()
    }
}

fn services(answers: &Answers<'_>, prometheus: &Store, traffic: &Traffic) {
    let zones = answers.ask("Bytes from zone to zone");
    assert_eq!(zones.len(), 1, "{zones:?}");
    let bytes = of(&zones, &[("local_zone", "zone-a"), ("peer_zone", "zone-b")]);
    assert!(bytes > 0.0, "{zones:?}");
    // Bytes within the zone exist, and are left out.
    let within =
        "sum(primus_lens_network_k8s_tcp_flow{flow=\"egress\",local_zone=\"zone-a\",peer_zone=\"zone-a\"})";
    assert!(prometheus.number(within).is_some_and(|bytes| bytes > 0.0));

    let backends = answers.ask("Backends of a service, by bytes");
    let of_service: Vec<_> = backends
        .into_iter()
        .filter(|(labels, _)| {
            labels
                .get("peer_service")
                .is_some_and(|service| service == "cart")
        })
        .collect();
    assert_eq!(values(&of_service, "backend"), BTreeSet::from(["10.77.12.2"]));
    let ports: BTreeSet<_> = values(&of_service, "backend_port")
        .into_iter()
        .map(str::to_owned)
        .collect();
    assert_eq!(ports, traffic.backends());
    // All bytes of the service, once its backends are known.
    let sum: f64 = of_service.iter().map(|(_, rate)| rate).sum();
    // The sidecar talks to the other zone as well.
    near(sum / bytes, CONNECTIONS as f64 / (CONNECTIONS + 1) as f64, 0.25);
}

fn meshes(answers: &Answers<'_>) {
    let [of_applications, of_sidecars] = &answers.ask_all("Both legs through sidecars")[..] else {
        panic!("two queries");
    };
    // Connections of nginx's clients are on loopback.
    assert_eq!(
        values(of_applications, "hop"),
        BTreeSet::from(["loopback", "to_proxy"])
    );
    assert_eq!(values(of_sidecars, "hop"), BTreeSet::from(["from_application"]));
    let legs = [&of_applications[..], &of_sidecars[..]].concat();
    let way = |hop, direction| of(&legs, &[("hop", hop), ("direction", direction)]);
    near(
        way("to_proxy", "outbound"),
        way("from_application", "inbound"),
        0.1,
    );

    let leaves = answers.ask("The leg that leaves, once");
    let outbound = of(&leaves, &[("flow", "egress"), ("direction", "outbound")]);
    // To the service, to the neighbour, and of the sidecar: the application's own leg is not among them.
    near(
        outbound / way("to_proxy", "outbound"),
        (CONNECTIONS + 2) as f64,
        0.1,
    );
}

fn protocols(answers: &Answers<'_>) {
    let requests = answers.ask("Requests by protocol and server name");
    let http = of(&requests, &[("protocol", "http")]);
    let tls = of(
        &requests,
        &[("protocol", "tls"), ("server_name", "api.example.test")],
    );
    // The first request of a connection of TLS can be part of the handshake.
    assert!((1.5..=3.0).contains(&(http / tls)), "{requests:?}");
    let times = answers.ask("Time of answers by protocol and server name, 95th percentile");
    for labels in [
        &[("protocol", "http")][..],
        &[("protocol", "tls"), ("server_name", "api.example.test")],
    ] {
        let time = of(&times, labels);
        assert!(time > 0.0 && time < 0.5, "{times:?}");
    }
}

#[test]
fn the_queries_about_services_meshes_and_protocols_answer_what_applications_know() {
    let Some(_machine) = require::root_alone() else {
        return;
    };
    if !["prometheus", "nft", "nginx", "curl"]
        .map(require::program)
        .into_iter()
        .all(|found| found)
    {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let api = Api::start(cluster());
    api.allow_nodes();
    let config = api.kubeconfig(dir.path());
    let (net, web) = (Net::new(false), Namespace::new());
    net.translate();
    let (text, queries) = questions(parts()[2]);
    let families = families(&text, "network_");
    assert_eq!(families.len(), 4, "{families:?}");
    let own = format!(
        "processors.filter={{include: [{{netns: [{}, {}, {}]}}]}}",
        net.client.label(),
        net.server.label(),
        web.label()
    );
    let kubeconfig = format!("service.kubernetes.kubeconfig={}", config.display());
    let mut set = vec![
        "service.pipelines.metrics.processors=[direction, policy, kubernetes, filter, window]",
        "processors.kubernetes={}",
        &own,
        &kubeconfig,
        "receivers.ebpf.inspect={protocols: true, server_names: full, exchanges: true, budget: 100%}",
        // A series that was scraped stays until the end.
        "processors.window.metric_expiration=10m",
    ];
    set.extend(families.iter().map(String::as_str));
    let daemon = Daemon::launch(Launch {
        list: "exporters: [prometheus]",
        set: &set,
        ..Launch::default()
    });
    let mut traffic = Traffic::open(&net, web);
    let site = tempfile::tempdir().unwrap();
    let _server = traffic.web.run(|| nginx(site.path()));
    let flow = "primus_lens_network_k8s_tcp_flow";
    // The first rounds, until everything is known of every connection, so that later ones have separate rates.
    let backends = traffic.backends();
    ask_until("every backend and zone", || {
        traffic.round();
        let seen = daemon.scrape();
        let known = |port: &String| {
            let labels = [
                ("backend_port", port.as_str()),
                ("peer_zone", "zone-b"),
                ("local_zone", "zone-a"),
            ];
            seen.sum(flow, &labels) > 0
        };
        let tls = [("protocol", "tls"), ("server_name", "api.example.test")];
        let has_exchanges = seen.sum("primus_lens_network_tcp_exchanges", &tls) > 0;
        let all_known = backends.iter().all(known) && has_exchanges;
        if !all_known {
            // Shown if the test fails.
            let families = [flow, "primus_lens_network_tcp_exchanges"];
            let of_families = |sample: &&crate::exposition::Sample| families.contains(&&*sample.name);
            eprintln!("{:#?}", seen.0.iter().filter(of_families).collect::<Vec<_>>());
        }
        all_known.then_some(())
    });
    let job = "scrape_configs:\n- job_name: flowtap\n  scrape_interval: 1s\n";
    let target = daemon.scrape_address();
    let prometheus = Store::prometheus(
        Path::new("prometheus"),
        &format!("{job}  static_configs: [{{targets: ['{target}']}}]\n"),
        &[],
    );
    let sent = "sum(primus_lens_network_tcp_flow_egress{direction=\"outbound\",hop=\"to_proxy\"})";
    let mut before = ask_until("the first scrape", || prometheus.number(sent));
    for _ in 0..4 {
        traffic.round();
        before = ask_until("the bytes of the round", || {
            let seen = prometheus.number(sent)?;
            (seen >= before + (MESSAGES * BYTES) as f64 - 0.5).then_some(seen)
        });
    }
    let answers = Answers::new(queries, &prometheus);
    services(&answers, &prometheus, &traffic);
    meshes(&answers);
    protocols(&answers);
    assert_eq!(answers.left(), [""; 0]);
    drop(daemon);
}
