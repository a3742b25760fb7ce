//! Scenarios over all steps, with a registry of made-up components.

use std::io::Write;
use std::net::SocketAddr;

use flowtap_pipeline::{
    BuildContext, BuildError, ComponentConfig, ComponentKind, Contract, Exporter, ExporterConfig, Extension,
    ExtensionConfig, Factory, ProcessorConfig, ProcessorStage, Receiver, ReceiverConfig, Registry, Signal,
    Stability, Violation,
};
use proptest::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::document::Document;
use crate::{Config, ConfigErrors, Layers, LogFormat, load};

/// One config for every made-up type.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct Made {
    size: u32,
    names: Vec<std::net::IpAddr>,
    #[serde(with = "flowtap_pipeline::address::option")]
    #[schemars(with = "Option<flowtap_pipeline::schema::AddressText>")]
    endpoint: Option<SocketAddr>,
    password: String,
    directory: Option<std::path::PathBuf>,
    pattern: Option<std::path::PathBuf>,
    headers: std::collections::BTreeMap<String, String>,
    domain: Option<std::num::NonZeroU32>,
    #[schemars(range(min = 512, max = 65_535))]
    bytes: Option<u16>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(transparent)]
struct MadeWindow(Made);

fn nothing(context: &BuildContext) -> BuildError {
    BuildError {
        is_temporary: false,
        id: context.id.clone(),
        message: "made up".to_owned(),
    }
}

impl ComponentConfig for Made {
    fn validate(&self) -> Vec<Violation> {
        if self.size > 100 {
            vec![Violation::new("size", "must be at most 100")]
        } else {
            Vec::new()
        }
    }

    fn contract(&self) -> Contract {
        let contract = match self.endpoint {
            Some(endpoint) => Contract::default().listens("endpoint", endpoint),
            None => Contract::default(),
        };
        let contract = match &self.directory {
            Some(directory) => contract.owns("directory", directory),
            None => contract,
        };
        match &self.pattern {
            Some(pattern) => contract.owns_by_kind("pattern", pattern),
            None => contract,
        }
    }
}

impl ComponentConfig for MadeWindow {
    fn contract(&self) -> Contract {
        Contract::default().gives([Signal::Metrics])
    }
}

impl ReceiverConfig for Made {
    fn build(&self, context: &BuildContext) -> Result<Box<dyn Receiver>, BuildError> {
        Err(nothing(context))
    }
}

impl ProcessorConfig for Made {
    fn build(&self, context: &BuildContext) -> Result<ProcessorStage, BuildError> {
        Err(nothing(context))
    }
}

impl ProcessorConfig for MadeWindow {
    fn build(&self, context: &BuildContext) -> Result<ProcessorStage, BuildError> {
        Err(nothing(context))
    }
}

impl ExporterConfig for Made {
    fn build(&self, context: &BuildContext) -> Result<Box<dyn Exporter>, BuildError> {
        Err(nothing(context))
    }
}

impl ExtensionConfig for Made {
    fn build(&self, context: &BuildContext) -> Result<Box<dyn Extension>, BuildError> {
        Err(nothing(context))
    }
}

fn registry() -> Registry {
    Registry::new()
        .receiver(Factory::of::<Made>("ebpf", "", Stability::Beta))
        .processor(Factory::of::<Made>("direction", "", Stability::Beta))
        .processor(Factory::of::<Made>("policy", "", Stability::Beta))
        .processor(Factory::of::<MadeWindow>("window", "", Stability::Beta))
        .exporter(Factory::of::<Made>("prometheus", "", Stability::Beta))
        .exporter(Factory::of::<Made>("otlp", "", Stability::Beta))
        .extension(Factory::of::<Made>("health_check", "", Stability::Beta))
}

fn with_files(files: &[(&str, &str)], env: &[(&str, &str)], set: &[&str]) -> Result<Config, ConfigErrors> {
    let dir = tempfile::tempdir().unwrap();
    let paths = files.iter().map(|(name, text)| {
        let path = dir.path().join(name);
        std::fs::File::create(&path)
            .unwrap()
            .write_all(text.as_bytes())
            .unwrap();
        path
    });
    let layers = Layers {
        files: paths.collect(),
        env: env
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect(),
        set: set.iter().map(|set| (*set).to_owned()).collect(),
    };
    load(&layers, &registry())
}

/// The errors of a result, as `line key`.
fn mistakes(result: Result<Config, ConfigErrors>) -> Vec<String> {
    let errors = result.expect_err("the config was taken").0;
    let shown = errors.iter().map(|error| {
        let line = error
            .origin
            .as_ref()
            .and_then(|origin| origin.place)
            .map_or(0, |place| place.0);
        format!("{line} {}", error.key)
    });
    shown.collect()
}

fn ids<C: ?Sized>(
    components: &std::collections::BTreeMap<flowtap_pipeline::ComponentId, Box<C>>,
) -> Vec<String> {
    components.keys().map(ToString::to_string).collect()
}

#[test]
fn a_type_that_this_build_was_made_without_is_refused_with_its_feature_and_no_other_guess() {
    // Both names are like ones that are there, or known from other programs.
    let registry = registry()
        .left_out(ComponentKind::Exporter, "prometheuz", "remote-write")
        .left_out(ComponentKind::Receiver, "bpf", "bpf-too");
    let layers = |set: &[&str]| Layers {
        set: set.iter().map(|set| (*set).to_owned()).collect(),
        ..Layers::default()
    };
    let set = [
        "exporters.prometheuz/b.size=1",
        "receivers.bpf={}",
        "service.pipelines.metrics.exporters=[prometheus, prometheuz/b]",
    ];
    let errors = load(&layers(&set), &registry)
        .expect_err("the types are not there")
        .0;
    let shown: Vec<_> = errors
        .iter()
        .map(|error| {
            (
                &*error.key,
                &*error.message,
                error.help.as_deref().unwrap_or_default(),
            )
        })
        .collect();
    assert_eq!(
        shown,
        [
            (
                "exporters.prometheuz/b",
                "this build has no exporter `prometheuz`",
                "build flowtap with the feature `remote-write`, or remove the exporter"
            ),
            (
                "receivers.bpf",
                "this build has no receiver `bpf`",
                "build flowtap with the feature `bpf-too`, or remove the receiver"
            ),
        ]
    );
    // A distribution can have a type of that name.
    let registry = registry.exporter(Factory::of::<Made>("prometheuz", "", Stability::Beta));
    assert!(load(&layers(&["exporters.prometheuz/b.size=1"]), &registry).is_ok());
}

#[test]
fn without_any_layer_the_default_pipeline_stands() {
    let config = with_files(&[], &[], &[]).unwrap();
    assert_eq!(ids(&config.receivers), ["ebpf"]);
    assert_eq!(ids(&config.processors), ["direction", "policy", "window"]);
    assert_eq!(ids(&config.exporters), ["prometheus"]);
    assert_eq!(
        config
            .pipelines
            .keys()
            .map(flowtap_pipeline::PipelineId::as_str)
            .collect::<Vec<_>>(),
        ["metrics"]
    );
    assert_eq!(
        config.service.admin.endpoint,
        Some("127.0.0.1:13134".parse().unwrap())
    );
    assert_eq!(config.warnings, []);
}

#[test]
fn later_layers_win_key_by_key_and_lists_replace_lists() {
    let config = with_files(
        &[
            ("a.yaml", "exporters: {prometheus: {size: 1, names: [192.0.2.1, 192.0.2.2]}}\nservice: {telemetry: {logs: {format: json}}}"),
            ("b.toml", "[exporters.prometheus]\nnames = [\"192.0.2.3\"]\npassword = \"file\""),
        ],
        &[("FLOWTAP_EXPORTERS__PROMETHEUS__PASSWORD", "env"), ("FLOWTAP_SERVICE__SHUTDOWN_TIMEOUT", "3s")],
        &["exporters.prometheus.endpoint=127.0.0.1:1"],
    )
    .unwrap();
    let yaml = format!("{:?}", config.exporters.values().next().unwrap());
    for part in [
        "size: 1",
        "names: [192.0.2.3]",
        "password: \"env\"",
        "endpoint: Some(127.0.0.1:1)",
    ] {
        assert!(yaml.contains(part), "no {part} in {yaml}");
    }
    assert_eq!(config.service.shutdown_timeout.as_secs(), 3);
    assert_eq!(config.service.telemetry.logs.format, LogFormat::Json);
}

#[test]
fn a_user_who_defines_pipelines_gets_only_those() {
    let text = "exporters: {otlp: {}}\nservice: {pipelines: {metrics/mine: {receivers: [ebpf], processors: [window], exporters: [otlp]}}}";
    let config = with_files(&[("a.yaml", text)], &[], &[]).unwrap();
    assert_eq!(
        config
            .pipelines
            .keys()
            .map(flowtap_pipeline::PipelineId::as_str)
            .collect::<Vec<_>>(),
        ["metrics/mine"]
    );
    assert_eq!(
        (ids(&config.processors), ids(&config.exporters)),
        (vec!["window".to_owned()], vec!["otlp".to_owned()])
    );
    // Components that only the defaults define are removed silently.
    assert_eq!(config.warnings, []);
}

#[test]
fn a_component_that_the_user_named_and_no_pipeline_uses_is_warned_of() {
    let config = with_files(&[("a.yaml", "exporters:\n  otlp:\n")], &[], &[]).unwrap();
    assert_eq!(ids(&config.exporters), ["prometheus"]);
    assert_eq!(config.warnings[0].key, "exporters.otlp");
    assert_eq!(config.warnings[0].origin.as_ref().unwrap().place, Some((2, 3)));
}

#[test]
fn otlp_joins_the_default_pipeline_where_the_environment_says_where_to_push() {
    let config = with_files(
        &[],
        &[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4317")],
        &[],
    )
    .unwrap();
    assert_eq!(ids(&config.exporters), ["otlp", "prometheus"]);
    let config = with_files(&[], &[("OTEL_EXPORTER_OTLP_ENDPOINT", "")], &[]).unwrap();
    assert_eq!(ids(&config.exporters), ["prometheus"]);
}

#[test]
fn every_mistake_is_reported_at_once_with_its_line() {
    let text = "\
receivers:
  ebfp: {}
  ebpf: {sise: 1, size: a}
processors:
  policy: {names: [192.0.2.1, nonsense, 192.0.2.2, also]}
  window: {size: 101}
  Bad: {}
  direction: [1]
exporters:
  prometheus: {size: 101}
servise: {}
service:
  admin: {endpoint: localhost}
  pipelines:
    metrics:
      receivers: [ebpf, ebpf]
      exporters: [prometheus, otlpp]
      colour: red
    metrics/empty: {processors: [window, policy]}
";
    let expected = [
        "2 receivers.ebfp",
        "3 receivers.ebpf.sise",
        "3 receivers.ebpf.size",
        "5 processors.policy.names[1]",
        "5 processors.policy.names[3]",
        "7 processors.Bad",
        "8 processors.direction",
        "10 exporters.prometheus.size",
        "11 servise",
        "13 service.admin.endpoint",
        "16 service.pipelines.metrics.receivers[1]",
        "17 service.pipelines.metrics.exporters[1]",
        "18 service.pipelines.metrics.colour",
        "19 service.pipelines.metrics/empty.exporters",
        "19 service.pipelines.metrics/empty.processors",
        "19 service.pipelines.metrics/empty.processors[0]",
        "19 service.pipelines.metrics/empty.receivers",
    ];
    let mut found = mistakes(with_files(&[("a.yaml", text)], &[], &[]));
    let mut expected = expected.map(str::to_owned).to_vec();
    found.sort();
    expected.sort();
    assert_eq!(found, expected);
}

#[test]
fn a_substitution_that_needs_quotes_has_them_in_the_hint() {
    let error = |text| {
        let errors = with_files(&[("a.yaml", text)], &[], &[])
            .expect_err("it is not YAML")
            .0;
        errors[0].help.clone()
    };
    let help = error("exporters:\n  prometheus: {basic_auth: {username: a, password: ${file:/b}}}\n");
    let help = help.expect("a hint");
    assert!(
        help.contains("quotes") && help.contains("\"${file:/path}\""),
        "{help}"
    );
    let quoted = "exporters: {prometheus: {a: '${env:B}', b: }\n";
    assert_eq!(error(quoted), None);
}

#[test]
fn the_text_of_a_reference_that_can_t_be_resolved_is_not_judged() {
    let text = "exporters:\n  prometheus: {size: \"${file:/nonexistent/n}\"}\n  otlp: {size: \"${env:UNSET}\", password: [1]}\n";
    let errors = with_files(&[("a.yaml", text)], &[], &[]).unwrap_err().0;
    let mut found: Vec<_> = errors.iter().map(|it| (&*it.key, &*it.message)).collect();
    found.sort_unstable();
    assert_eq!(found.len(), 3, "{found:?}");
    assert!(found[0].0 == "exporters.otlp.password", "{found:?}");
    assert_eq!(
        found[1],
        ("exporters.otlp.size", "the environment variable UNSET is not set")
    );
    assert!(
        found[2].1.starts_with("the file /nonexistent/n can't be read: "),
        "{found:?}"
    );
}

#[test]
fn a_misspelt_name_comes_with_the_one_that_was_meant() {
    let errors = with_files(&[("a.yaml", "exporters:\n  promethius: {}\n")], &[], &[]).unwrap_err();
    let shown = errors.to_string();
    assert!(
        shown.contains("a.yaml:2:3: exporters.promethius: ") && shown.contains("did you mean `prometheus`?"),
        "{shown}"
    );
}

#[test]
fn a_mistake_is_shown_in_its_line_unless_that_may_hold_a_secret() {
    let text = "\
receivers:
  ebpf: {size: a}
exporters:
  otlp: {password: hunter2, sise: 1}
  prometheus: {password: 12345}
";
    let errors = with_files(&[("a.yaml", text)], &[], &[]).unwrap_err();
    let plain = errors.render(false);
    for part in [
        "a.yaml:2:10: receivers.ebpf.size: ",
        "2 |   ebpf: {size: a}\n",
        "|          ^^^^",
    ] {
        assert!(plain.contains(part), "no {part:?} in:\n{plain}");
    }
    assert!(plain.contains("a.yaml:4:29: exporters.otlp.sise: "), "{plain}");
    assert!(plain.contains("did you mean `size`?"), "{plain}");
    assert!(!plain.contains("hunter2") && !plain.contains("12345"), "{plain}");
    assert!(errors.render(true).contains('\u{1b}') && !plain.contains('\u{1b}'));
}

#[test]
fn a_line_of_any_length_is_shown_in_a_few_columns() {
    let text = format!("receivers:\n  ebpf: {{sise: 1, {}}}\n", " ".repeat(1 << 20));
    let plain = with_files(&[("a.yaml", &text)], &[], &[])
        .unwrap_err()
        .render(false);
    assert!(plain.len() < 2000, "{} bytes", plain.len());
}

#[test]
fn a_substituted_password_of_digits_stays_text_and_a_number_becomes_one() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("password");
    std::fs::write(&file, "0123\n").unwrap();
    let text = format!(
        "exporters: {{prometheus: {{password: '${{file:{}}}', size: '${{env:N}}'}}}}",
        file.display()
    );
    let config = with_files(&[("a.yaml", &text)], &[("N", "7")], &[]).unwrap();
    let shown = format!("{:?}", config.exporters);
    assert!(
        shown.contains("password: \"0123\"") && shown.contains("size: 7"),
        "{shown}"
    );
}

#[test]
fn syntax_errors_double_keys_and_second_documents_are_reported_with_their_place() {
    for (name, text, place) in [
        ("a.yaml", "a: [1\nb: 2", (2, 2)),
        ("a.yaml", "service: {}\nservice: {}", (2, 1)),
        ("a.yaml", "---\nservice: {}\n---\nservice: {}", (3, 1)),
        ("a.yaml", "service: {}\nexporters: *x", (2, 12)),
        ("a.yaml", "exporters: &x {a: *x}", (1, 19)),
        ("a.yaml", "exporters: {<<: 1}", (1, 17)),
        ("a.yaml", "- a", (1, 1)),
        ("a.toml", "a = 1\na = 2", (2, 1)),
        ("a.toml", "a = ", (1, 5)),
    ] {
        let errors = with_files(&[(name, text)], &[], &[]).unwrap_err();
        assert_eq!(errors.0.len(), 1, "{text}: {errors}");
        assert_eq!(
            errors.0[0].origin.as_ref().unwrap().place,
            Some(place),
            "{text}: {errors}"
        );
    }
}

#[test]
fn a_file_that_is_not_there_or_of_no_known_kind_is_named() {
    let layers = Layers {
        files: vec!["/nonexistent/a.yaml".into(), "/etc/hostname".into()],
        ..Layers::default()
    };
    let shown = load(&layers, &registry()).unwrap_err().to_string();
    assert!(
        shown.contains("/nonexistent/a.yaml: ") && shown.contains("/etc/hostname: "),
        "{shown}"
    );
}

#[test]
fn variables_that_name_no_key_are_reported_rather_than_ignored() {
    let env = [
        ("FLOWTAP_EXPORTER__PROMETHEUS__SIZE", "1"),
        ("FLOWTAP_SIZE", "1"),
        ("FLOWTAP_CONFIG", "x"),
        ("FLOWTAP_TEST_X", "1"),
        ("OTHER", "1"),
    ];
    let errors = with_files(&[], &env, &[]).unwrap_err();
    assert_eq!(errors.0.len(), 2, "{errors}");
    assert!(
        errors.to_string().contains("FLOWTAP_EXPORTERS__COMPONENT__KEY"),
        "{errors}"
    );
}

#[test]
fn substitution_reads_the_environment_and_an_unset_variable_is_reported_with_its_line() {
    let text = "exporters:\n  prometheus:\n    size: ${env:N}\n    password: x-${env:P:-y}\n";
    let config = with_files(&[("a.yaml", text)], &[("N", "7")], &[]).unwrap();
    let shown = format!("{:?}", config.exporters);
    assert!(
        shown.contains("size: 7") && shown.contains("password: \"x-y\""),
        "{shown}"
    );
    let found = mistakes(with_files(&[("a.yaml", text)], &[], &[]));
    assert!(
        found.contains(&"3 exporters.prometheus.size".to_owned()),
        "{found:?}"
    );
}

#[test]
fn every_section_and_component_without_a_value_has_its_defaults() {
    for section in ["receivers", "processors", "exporters", "extensions", "service"] {
        for empty in ["", " null", " ~", " {}"] {
            let text = format!("{section}:{empty}\n");
            let read = with_files(&[("a.yaml", &text)], &[], &[]);
            assert!(read.is_ok(), "{text:?}: {}", read.unwrap_err());
        }
    }
    for empty in ["", " null", " {}"] {
        let text = format!("extensions: {{health_check:{empty}}}\nservice: {{extensions: [health_check]}}\n");
        let config = with_files(&[("a.yaml", &text)], &[], &[]);
        let config = config.unwrap_or_else(|errors| panic!("{text:?}: {errors}"));
        assert_eq!(ids(&config.extensions), ["health_check"], "{text:?}");
    }
}

#[test]
fn each_of_many_mistakes_has_its_own_line() {
    let keys: Vec<_> = (0..2000).map(|n| format!("wrong{n:04}: {n}")).collect();
    let errors = with_files(&[("a.yaml", &keys.join("\n"))], &[], &[]).unwrap_err();
    assert_eq!(errors.0.len(), keys.len());
    for (error, key) in errors.0.iter().zip(&keys) {
        let origin = error.origin.as_ref().unwrap();
        assert_eq!(origin.line.as_ref(), Some(key), "{origin:?}");
    }
}

#[test]
fn a_name_behind_a_namespace_is_the_one_that_was_meant() {
    let names = "available: network_tcp_connections, tcp_connections, network_tcp_io";
    for (name, meant) in [
        ("primus_lens_network_tcp_connections", "network_tcp_connections"),
        ("a_network_tcp_io", "network_tcp_io"),
        ("network_tcp_conections", "network_tcp_connections"),
    ] {
        let (message, hint) = crate::words::split_hint(&format!("unknown metric `{name}`; {names}"));
        assert_eq!(message, format!("unknown metric `{name}`"));
        assert_eq!(hint, Some(format!("did you mean `{meant}`?")));
    }
    let (_, hint) = crate::words::split_hint(&format!("unknown metric `other`; {names}"));
    assert_eq!(hint.as_deref(), Some(names));
}

#[test]
fn a_time_where_a_number_is_wanted_has_its_number_of_seconds() {
    let number = serde_json::json!({"type": "array", "items": {"type": "number"}});
    let entry = crate::shape::Shape::new(&number).at(&["0".to_owned()]).unwrap();
    let hint = |text: &str| entry.hint(&figment::error::Actual::Str(text.to_owned()));
    assert_eq!(
        hint("100us").as_deref(),
        Some("write a number without a unit; in seconds it is 0.0001")
    );
    assert_eq!(hint("fast"), None);
}

#[test]
fn a_number_out_of_range_comes_with_both_bounds() {
    let numbers = "receivers:\n  ebpf:\n    domain: 4294967296\n    bytes: 70000\n    size: 4294967296\n";
    let errors = with_files(&[("a.yaml", numbers)], &[], &[]).unwrap_err();
    let mut messages: Vec<_> = errors.0.iter().map(|error| &*error.message).collect();
    messages.sort_unstable();
    assert_eq!(
        messages,
        [
            "expected a whole number from 0 to 4294967295, found number `4294967296`",
            "expected a whole number from 1 to 4294967295, found number `4294967296`",
            "expected a whole number from 512 to 65535, found number `70000`",
        ]
    );
}

#[test]
fn an_error_of_building_is_at_the_keys_with_which_it_begins() {
    let written = "receivers:\n  ebpf:\n    size: 3\n    headers:\n      token: /nowhere\n";
    let config = with_files(&[("a.yaml", written)], &[], &[]).unwrap();
    for (message, place, left) in [
        (
            "headers: token: /nowhere: No such file",
            "5 receivers.ebpf.headers.token",
            "/nowhere: No such file",
        ),
        (
            "headers: other: is not known",
            "4 receivers.ebpf.headers",
            "other: is not known",
        ),
        ("size: too small", "3 receivers.ebpf.size", "too small"),
        ("made up", "2 receivers.ebpf", "made up"),
    ] {
        let error = BuildError {
            is_temporary: false,
            id: "ebpf".parse().unwrap(),
            message: message.to_owned(),
        };
        let errors = config.build_error(&error);
        assert_eq!(errors.0[0].message, left);
        assert_eq!(mistakes(Err(errors)), [place]);
    }
}

#[test]
fn two_listeners_on_one_port_are_found() {
    let found = |endpoint: &str| {
        with_files(&[], &[], &[&format!("exporters.prometheus.endpoint={endpoint}")])
            .map_err(|errors| errors.to_string())
    };
    for taken in ["127.0.0.1:13134", "0.0.0.0:9460"] {
        assert!(
            found(taken)
                .unwrap_err()
                .contains("exporters.prometheus.endpoint"),
            "{taken}"
        );
    }
    for free in ["127.0.0.1:9464", "127.0.0.2:13134"] {
        assert!(found(free).is_ok(), "{free}");
    }
}

#[test]
fn two_components_on_one_place_are_found_with_both_keys() {
    let with = |a: &str, b: &str| {
        let text = format!(
            "exporters: {{otlp: {{{a}}}, otlp/b: {{{b}}}}}\n\
             service: {{pipelines: {{metrics: {{exporters: [otlp, otlp/b]}}}}}}\n"
        );
        with_files(&[("a.yaml", &text)], &[], &[])
    };
    for (a, b) in [
        ("directory: /x/y", "directory: /x/y"),
        ("directory: /x/y", "directory: /x/z/../y/"),
        ("pattern: '/x/{time}'", "pattern: '/x/./{time}'"),
        ("pattern: /x/y", "directory: /x/y"),
    ] {
        let errors = with(a, b).expect_err(b).to_string();
        let key = b.split(':').next().unwrap();
        let other = a.split(':').next().unwrap();
        assert!(errors.contains(&format!("exporters.otlp/b.{key}: ")), "{errors}");
        assert!(
            errors.contains(&format!("is already used by exporters.otlp.{other}")),
            "{errors}"
        );
        // A component may be in several pipelines: a second one is not needed.
        assert!(
            errors.contains("; or write `otlp` in place of `otlp/b`: several pipelines may have the same id"),
            "{errors}"
        );
    }
    for (a, b) in [
        ("directory: /x/y", "directory: /x/z"),
        ("pattern: '/x/a-{time}'", "pattern: '/x/b-{time}'"),
    ] {
        let read = with(a, b);
        assert!(read.is_ok(), "{b}: {}", read.unwrap_err());
    }
}

#[test]
fn yaml_and_toml_of_one_config_are_the_same() {
    let yaml = "exporters: {prometheus: {size: 0x10, names: [192.0.2.1]}}\nservice: {admin: {endpoint: \"127.0.0.1:1\"}}";
    let toml = "[exporters.prometheus]\nsize = 0x10\nnames = [\"192.0.2.1\"]\n[service.admin]\nendpoint = \"127.0.0.1:1\"";
    let print = |file| with_files(&[file], &[], &[]).unwrap().to_yaml();
    assert_eq!(print(("a.yaml", yaml)), print(("a.toml", toml)));
}

#[test]
fn a_printed_config_can_be_read_back_and_secrets_that_it_left_out_are_asked_for() {
    let text = "exporters: {prometheus: {size: 3}}";
    let printed = with_files(&[("a.yaml", text)], &[], &[]).unwrap().to_yaml();
    let again = with_files(&[("b.yaml", &printed)], &[], &[]).unwrap();
    assert_eq!(again.to_yaml(), printed);

    let text = "exporters: {prometheus: {password: hunter2, headers: {authorization: hunter3}, size: 3}}";
    let printed = with_files(&[("a.yaml", text)], &[], &[]).unwrap().to_yaml();
    assert!(
        !printed.contains("hunter") && printed.contains("[redacted]"),
        "{printed}"
    );
    let errors = with_files(&[("b.yaml", &printed)], &[], &[]).unwrap_err();
    let keys: Vec<_> = errors.0.iter().map(|error| &*error.key).collect();
    let expected = [
        "exporters.prometheus.headers.authorization",
        "exporters.prometheus.password",
    ];
    assert_eq!(keys, expected);
    assert!(
        errors
            .0
            .iter()
            .all(|error| error.origin.as_ref().is_some_and(|origin| origin.place.is_some()))
    );
    let errors = errors.to_string();
    assert!(
        errors.contains("hint: write where it is, such as `${file:"),
        "{errors}"
    );
    // Another key may have the same text.
    assert!(
        with_files(
            &[("a.yaml", "exporters: {prometheus: {directory: '[redacted]'}}")],
            &[],
            &[]
        )
        .is_ok()
    );
    for url in ["http://redacted@h/", "http://h/?a=b&token=redacted"] {
        let text = format!("exporters: {{prometheus: {{names: ['{url}']}}}}");
        let errors = with_files(&[("a.yaml", &text)], &[], &[])
            .unwrap_err()
            .to_string();
        assert!(
            errors.contains("exporters.prometheus.names[0]: a secret is missing"),
            "{errors}"
        );
    }
}

#[test]
fn no_error_shows_a_value_of_set_of_a_variable_or_of_a_file() {
    let secret_file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(secret_file.path(), "hunter3\n").unwrap();
    let text = format!(
        "exporters: {{prometheus: {{size: '${{env:SECRET}}', names: '${{file:{}}}'}}}}",
        secret_file.path().display()
    );
    let errors = with_files(
        &[("a.yaml", &text)],
        &[("SECRET", "hunter2"), ("SHORT", "7 parsecs")],
        &[
            "exporters.prometheus.bearer=hunter4",
            "exporters.prometheus.timeout=${env:SHORT}",
        ],
    )
    .unwrap_err()
    .to_string();
    assert!(
        !errors.contains("hunter") && !errors.contains("7 parsecs"),
        "{errors}"
    );
    assert!(errors.contains("(the substituted value)"), "{errors}");
    assert!(
        errors.contains("--set exporters.prometheus.bearer: "),
        "the key is shown: {errors}"
    );
    assert_eq!(
        errors.matches("exporters.prometheus.bearer").count(),
        1,
        "once: {errors}"
    );
}

proptest! {
    #[test]
    fn no_text_makes_the_readers_panic(text in "\\PC*", lines in "([a-z]*[:=\\[\\]{}&*!|>\"' \n-]*)*") {
        for text in [text, lines] {
            let _ = Document::from_yaml(&text);
            let _ = Document::from_toml(&text);
        }
    }
}

#[test]
fn a_config_that_nests_without_end_is_refused_and_no_stack_overflows() {
    let deep = format!("{}{}", "[".repeat(20_000), "]".repeat(20_000));
    assert!(Document::from_yaml(&format!("a: {deep}")).is_err());
    assert!(Document::from_toml(&format!("a = {deep}")).is_err());
}

/// Resulting config of the exporter `prometheus`, as text.
fn prometheus(config: &Config) -> String {
    format!("{:?}", config.exporters.values().next().unwrap())
}

#[test]
fn values_of_the_environment_are_text_where_text_is_wanted_and_are_taken_as_they_are() {
    for text in [
        "abc #def",
        "p@s$$w0rd",
        "\"q\"",
        "0123",
        "true",
        "1e5",
        "@abc",
        "#abc",
        "%abc",
        "*abc",
        "a: b",
        "- x",
        "{x}",
        "{a: b}",
        "null",
        "~",
        "",
        " x ",
        "[a]",
        "${env:HOME}",
        "12345",
    ] {
        let env = [("FLOWTAP_EXPORTERS__PROMETHEUS__PASSWORD", text)];
        let config = with_files(&[], &env, &[]).unwrap();
        let expected = format!("password: {text:?}");
        assert!(
            prometheus(&config).contains(&expected),
            "{text:?}: {}",
            prometheus(&config)
        );
    }
}

#[test]
fn values_of_the_environment_and_of_set_are_what_their_key_wants() {
    let read = |key: &str, text: &str| {
        let name = format!("FLOWTAP_EXPORTERS__PROMETHEUS__{}", key.to_ascii_uppercase());
        let of_env = with_files(&[], &[(&name, text)], &[]).unwrap();
        let of_set = with_files(&[], &[], &[&format!("exporters.prometheus.{key}={text}")]).unwrap();
        assert_eq!(of_env.to_yaml(), of_set.to_yaml());
        prometheus(&of_env)
    };
    for (key, text, expected) in [
        ("size", "7", "size: 7,"),
        ("names", "[192.0.2.1, '::1']", "names: [192.0.2.1, ::1]"),
        ("endpoint", "[::1]:9464", "endpoint: Some([::1]:9464)"),
        ("endpoint", ":9464", "endpoint: Some([::]:9464)"),
        ("endpoint", "null", "endpoint: None"),
        (
            "headers",
            "{a: 'b', c: 1}",
            "headers: {\"a\": \"b\", \"c\": \"1\"}",
        ),
    ] {
        let shown = read(key, text);
        assert!(shown.contains(expected), "{key}={text}: {shown}");
    }
    let found = with_files(&[], &[("FLOWTAP_EXPORTERS__PROMETHEUS__SIZE", "1e3")], &[]).unwrap_err();
    assert!(
        found.to_string().contains("found floating-point number `1000`"),
        "{found}"
    );
    // A substitution on the command line is one: a secret is not for `ps`.
    let config = with_files(&[], &[("N", "a$$b")], &["exporters.prometheus.password=${env:N}"]).unwrap();
    assert!(
        prometheus(&config).contains("password: \"a$$b\""),
        "{}",
        prometheus(&config)
    );
}

#[test]
fn numbers_of_a_file_are_text_where_text_is_wanted_as_they_are_written() {
    let yaml = "exporters: {prometheus: {password: 0123, headers: {a: 1e3, b: true, c: 0x10}}}";
    let toml = "exporters.prometheus = {password = 123, headers = {a = 1e3, b = true, c = 0x10}}";
    let shown = prometheus(&with_files(&[("a.yaml", yaml)], &[], &[]).unwrap());
    assert!(shown.contains("password: \"0123\""), "{shown}");
    let headers = "headers: {\"a\": \"1e3\", \"b\": \"true\", \"c\": \"0x10\"}";
    assert!(shown.contains(headers), "{shown}");
    let shown = prometheus(&with_files(&[("a.toml", toml)], &[], &[]).unwrap());
    assert!(
        shown.contains("password: \"123\"") && shown.contains(headers),
        "{shown}"
    );
}

#[test]
fn sections_and_keys_without_a_value_have_their_defaults() {
    let built_in = with_files(&[], &[], &[]).unwrap().to_yaml();
    for text in [
        "receivers:\nprocessors:\nexporters:\nservice:\n",
        "service:\n  pipelines:\n",
        "service:\n  telemetry:\n    logs:\n  shutdown_timeout:\n",
        "exporters:\n  prometheus:\n    size:\n    names:\n    headers:\n    password:\n",
        "service: {pipelines: {metrics: }}",
    ] {
        let config = with_files(&[("a.yaml", text)], &[], &[]);
        assert_eq!(config.unwrap().to_yaml(), built_in, "{text}");
    }
}

#[test]
fn aliases_and_merge_keys_stand_for_what_their_anchors_mark() {
    let text = "\
x-common: &common
  size: 7
  headers: {a: b}
exporters:
  prometheus: {<<: *common, size: 8, names: &names [192.0.2.1]}
  otlp: {<<: [{password: p}, *common], names: *names}
service: {pipelines: {metrics: {receivers: [ebpf], processors: [window], exporters: [otlp, prometheus]}}}
";
    let config = with_files(&[("a.yaml", text)], &[], &[]).unwrap();
    let shown: Vec<_> = config
        .exporters
        .values()
        .map(|config| format!("{config:?}"))
        .collect();
    for part in [
        "size: 7",
        "names: [192.0.2.1]",
        "password: \"p\"",
        "{\"a\": \"b\"}",
    ] {
        assert!(shown[0].contains(part), "{shown:?}");
    }
    assert!(
        shown[1].contains("size: 8") && shown[1].contains("{\"a\": \"b\"}"),
        "{shown:?}"
    );
    // A mistake in what is marked is shown where it is written.
    let found = mistakes(with_files(
        &[("a.yaml", &text.replace("size: 7", "size: seven"))],
        &[],
        &[],
    ));
    assert_eq!(found, ["2 exporters.otlp.size"]);
}

#[test]
fn aliases_that_multiply_are_refused() {
    let lines = (1..9).map(|n| format!("x-{n}: &a{n} [{}]\n", vec![format!("*a{}", n - 1); 9].join(", ")));
    let text = format!("x-0: &a0 [x]\n{}", lines.collect::<String>());
    let error = with_files(&[("a.yaml", &text)], &[], &[]).unwrap_err();
    assert!(
        error.to_string().contains("aliases expand to more than"),
        "{error}"
    );
}

#[test]
fn variables_of_a_kubernetes_service_are_ignored_with_one_warning() {
    let env = [
        ("FLOWTAP_SERVICE_HOST", "10.96.0.5"),
        ("FLOWTAP_SERVICE_PORT", "9464"),
        ("FLOWTAP_PORT", "tcp://10.96.0.5:9464"),
        ("FLOWTAP_PORT_9464_TCP_ADDR", "10.96.0.5"),
    ];
    let config = with_files(&[], &env, &[]).unwrap();
    assert_eq!(config.warnings.len(), 1, "{:?}", config.warnings);
    let shown = config.warnings[0].to_string();
    assert!(
        shown.contains("FLOWTAP_SERVICE_HOST and 3 more") && shown.contains("enableServiceLinks"),
        "{shown}"
    );
}

#[test]
fn spellings_of_other_programs_come_with_the_one_here() {
    for (text, expected) in [
        (
            "sinks: {}",
            "did you mean `exporters`? Vector's `sinks` is `exporters` here",
        ),
        (
            "exporters: {otlphttp: {}}",
            "use `otlp` with `protocol: http/protobuf`",
        ),
        (
            "processors: {batch: {}}",
            "not needed: exporters send whole windows",
        ),
        (
            "exporters: {prometheus: {listen_address: ':1'}}",
            "Prometheus' `listen_address` is `endpoint` here",
        ),
        (
            "exporters: {otlp/backup: {uri: 'http://a'}}",
            "Vector's `uri` is `endpoint` here",
        ),
        (
            "service: {pipelines: {metrics: {receivers: [ebpf], processors: [memory_limiter, window], exporters: [prometheus]}}}",
            "`memory_limiter` is `service.memory_limiter` here",
        ),
    ] {
        let errors = with_files(&[("a.yaml", text)], &[], &[]).unwrap_err().to_string();
        assert!(errors.contains(expected), "{text}:\n{errors}");
    }
}

#[test]
fn a_key_at_the_wrong_depth_comes_with_the_place_where_it_belongs() {
    let errors = with_files(&[("a.yaml", "service: {telemetry: {initial: 3}}")], &[], &[]).unwrap_err();
    assert!(
        errors
            .to_string()
            .contains("did you mean `logs.sampling.initial`?"),
        "{errors}"
    );
}

/// A mistake, and where a config has it.
type Injected = (&'static str, &'static str);

/// Entries of a valid config, each with what makes it wrong; one mistake, one error.
const ENTRIES: [(Injected, &[&str]); 9] = [
    (
        ("exporters.prometheus", "size: 7"),
        &["size: x", "sise: 7", "size: -1", "size: [7]", "size: 101"],
    ),
    (
        ("exporters.prometheus", "names: [192.0.2.1, 192.0.2.2]"),
        &["names: [192.0.2.1, x]", "names: 192.0.2.1", "nmes: []"],
    ),
    (
        ("exporters.prometheus", "headers: {a: b}"),
        &["headers: {a: [b]}", "headers: b", "header: {}"],
    ),
    (
        ("exporters.otlp", "password: x"),
        &["password: [x]", "pasword: x"],
    ),
    (
        ("receivers.ebpf", "size: 9"),
        &["size: 1.5", "size: true", "x: 9"],
    ),
    (
        ("processors.policy", "endpoint: ':7'"),
        &["endpoint: 7", "endpoint: localhost", "endpont: ':7'"],
    ),
    (("processors.window", "size: 8"), &["size: {}", "sizes: 8"]),
    (
        ("service.telemetry.logs", "level: info"),
        &["level: warning", "level: [info]", "levle: info"],
    ),
    (
        ("service.admin", "endpoint: null"),
        &["endpoint: 7", "endpoint: x", "port: 7"],
    ),
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn as_many_errors_are_reported_as_mistakes_were_made(
        choices in proptest::collection::vec((any::<bool>(), any::<bool>(), any::<proptest::sample::Index>()), ENTRIES.len()),
    ) {
        let mut sections: std::collections::BTreeMap<&str, Vec<&str>> = std::collections::BTreeMap::new();
        let mut injected = 0;
        for (((place, good), wrong), (there, bad, index)) in ENTRIES.iter().zip(choices) {
            let entry = if bad { *index.get(wrong) } else { good };
            if bad || there {
                sections.entry(place).or_default().push(entry);
            }
            injected += usize::from(bad);
        }
        // One section per line, as a path of mappings in flow style, each in a separate file:
        // layers merge.
        let files: Vec<_> = sections
            .iter()
            .enumerate()
            .map(|(number, (place, entries))| {
                let body = format!("{{{}}}", entries.join(", "));
                let text = place.rsplit('.').fold(body, |below, key| format!("{{{key}: {below}}}"));
                (format!("{number}.yaml"), text)
            })
            .collect();
        let files: Vec<_> = files.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
        let found = with_files(&files, &[], &[]).map_or_else(|errors| errors.0, |_| Vec::new());
        prop_assert_eq!(found.len(), injected, "{:?}\n{:?}", files, found);
    }
}
