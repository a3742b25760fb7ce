//! First bytes of connections through the recognition of protocols, and the names of TLS clients through their validation.
//!
//! The first two bytes are the length of what the client says.
#![no_main]

use flowtap_receivers::inspect::{Verdict, recognize, tls};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Some(([high, low], rest)) = bytes.split_first_chunk() else {
        return;
    };
    let length = usize::from(u16::from_be_bytes([*high, *low])).min(rest.len());
    let (client, server) = rest.split_at(length);
    let verdict = recognize(client, server);
    if let Verdict::Final(found) = &verdict {
        // Bytes after a whole message change nothing.
        let more = [client, b"\0GET / HTTP/1.1\r\n"].concat();
        if found.hello.is_some() {
            assert_eq!(recognize(&more, server).into_recognized().hello, found.hello);
        }
    }
    if let Some(hello) = tls::client_hello(client) {
        let name = hello.server_name.unwrap_or_default();
        assert!(name.len() <= client.len());
        assert!(hello.alpn.len() <= 8);
    }
});
