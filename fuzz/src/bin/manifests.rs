//! Manifests of a cluster, as objects and as policies.
#![no_main]

use flowtap_network_policy::manifest::{objects, policies};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    for error in [
        objects("fuzzed", text).err(),
        policies("fuzzed", text, "default").err(),
    ]
    .into_iter()
    .flatten()
    {
        assert!(error.to_string().contains("fuzzed"), "{error} names no file");
    }
});
