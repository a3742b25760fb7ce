//! Tests of TLS, with real files and handshakes; certificates for those of the listener.

use std::{fs, io};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::HandshakeKind;
use rustls::pki_types::CertificateDer;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::*;

/// Writes the files of a new certificate, and returns it.
fn issue(files: &ServerTls) -> CertificateDer<'static> {
    let issued = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    fs::write(&files.cert_file, issued.cert.pem()).unwrap();
    fs::write(&files.key_file, issued.signing_key.serialize_pem()).unwrap();
    issued.cert.der().clone()
}

fn served(tls: &ListenerTls) -> CertificateDer<'static> {
    tls.certificate.0.load().cert[0].clone()
}

#[test]
fn a_renewed_certificate_is_tried_until_its_files_can_be_used() {
    let dir = tempfile::tempdir().unwrap();
    let files = ServerTls {
        cert_file: dir.path().join("server.crt"),
        key_file: dir.path().join("server.key"),
        client_ca_file: None,
    };
    let first = issue(&files);
    let tls = ListenerTls::new(&files).unwrap();
    assert!(!tls.refresh_certificate().unwrap());
    let second = issue(&files);
    let key = fs::read(&files.key_file).unwrap();
    fs::write(&files.key_file, "not yet").unwrap();
    let written = fs::metadata(&files.key_file).unwrap().modified().unwrap();
    assert!(tls.refresh_certificate().is_err());
    assert!(!tls.refresh_certificate().unwrap(), "the same failure, once");
    assert_eq!(served(&tls), first);
    // The time of modification says nothing: a mode that is put right does not change it.
    fs::write(&files.key_file, key).unwrap();
    let file = fs::File::options().write(true).open(&files.key_file).unwrap();
    file.set_modified(written).unwrap();
    assert!(tls.refresh_certificate().unwrap());
    assert_eq!(served(&tls), second);
    assert!(!tls.refresh_certificate().unwrap());
}

#[test]
fn a_file_that_was_missing_for_a_moment_is_read_when_it_is_back() {
    let dir = tempfile::tempdir().unwrap();
    let files = ServerTls {
        cert_file: dir.path().join("server.crt"),
        key_file: dir.path().join("server.key"),
        client_ca_file: None,
    };
    issue(&files);
    let tls = ListenerTls::new(&files).unwrap();
    fs::rename(&files.key_file, dir.path().join("aside")).unwrap();
    assert!(tls.refresh_certificate().is_err());
    fs::rename(dir.path().join("aside"), &files.key_file).unwrap();
    assert!(tls.refresh_certificate().unwrap());
}

/// Files of a listener in `folder` whose certificate is for `localhost`, and that has no authorities of clients yet.
pub(crate) fn listener_files(folder: &Path) -> ServerTls {
    let files = ServerTls {
        cert_file: folder.join("server.crt"),
        key_file: folder.join("server.key"),
        client_ca_file: Some(folder.join("clients.crt")),
    };
    issue(&files);
    files
}

/// A new authority of client certificates, in PEM, and a client of the listener with `files` that has one of them.
pub(crate) fn authority(files: &ServerTls, name: &str) -> (String, TlsConnector) {
    let mut params = CertificateParams::new([format!("authority-{name}")]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new([name.to_owned()]).unwrap();
    let certificate = params.signed_by(&key, &issuer).unwrap();
    let base = files.cert_file.with_file_name(name);
    let client = ClientTls {
        ca_file: Some(files.cert_file.clone()),
        cert_file: Some(base.with_extension("crt")),
        key_file: Some(base.with_extension("key")),
        server_name: None,
    };
    fs::write(base.with_extension("crt"), certificate.pem()).unwrap();
    fs::write(base.with_extension("key"), key.serialize_pem()).unwrap();
    (
        issuer.pem(),
        TlsConnector::from(Arc::new(client.client_config().unwrap())),
    )
}

/// Shakes hands, and has a byte from the server: a client of TLS 1.3 learns only then whether its certificate is accepted.
async fn shaken(tls: &ListenerTls, client: &TlsConnector) -> io::Result<HandshakeKind> {
    let (near, far) = tokio::io::duplex(1 << 16);
    let acceptor = TlsAcceptor::from(tls.config());
    let server = async {
        let mut stream = acceptor.accept(far).await?;
        stream.write_all(b"y").await?;
        stream.shutdown().await
    };
    let client = async {
        let mut stream = client.connect("localhost".try_into().unwrap(), near).await?;
        stream.read_exact(&mut [0]).await?;
        Ok(stream.get_ref().1.handshake_kind().unwrap())
    };
    let (server, client) = tokio::join!(server, client);
    server.and(client)
}

#[tokio::test]
async fn clients_are_checked_with_the_newest_authorities_that_can_be_used() {
    let dir = tempfile::tempdir().unwrap();
    let files = listener_files(dir.path());
    let file = files.client_ca_file.clone().unwrap();
    let ((first, of_first), (second, of_second)) = (authority(&files, "one"), authority(&files, "two"));
    fs::write(&file, &first).unwrap();
    let tls = ListenerTls::new(&files).unwrap();
    assert!(!tls.refresh_authorities().unwrap());
    assert_eq!(shaken(&tls, &of_first).await.unwrap(), HandshakeKind::Full);
    assert_eq!(shaken(&tls, &of_first).await.unwrap(), HandshakeKind::Resumed);
    shaken(&tls, &of_second).await.unwrap_err();

    // Neither a file that is half written nor one that is missing is a reason to let nobody in, or everybody.
    let half = &second[..second.len() / 2];
    for content in [Some(""), Some("not PEM"), Some(half), None] {
        match content {
            Some(content) => fs::write(&file, content).unwrap(),
            None => fs::remove_file(&file).unwrap(),
        }
        // Once, as long as the message is the same.
        if let Err(error) = tls.refresh_authorities() {
            let text = error.to_string();
            assert!(text.contains("clients.crt"), "{text}");
        }
        assert!(!tls.refresh_authorities().unwrap(), "the same failure, once");
        shaken(&tls, &of_first).await.unwrap();
        shaken(&tls, &of_second).await.unwrap_err();
    }

    fs::write(&file, &second).unwrap();
    assert!(tls.refresh_authorities().unwrap());
    assert!(!tls.refresh_authorities().unwrap());
    // Nor does the session help that it has.
    shaken(&tls, &of_first).await.unwrap_err();
    shaken(&tls, &of_second).await.unwrap();

    // Another file with the same authorities: no connection need be closed.
    fs::remove_file(&file).unwrap();
    fs::write(&file, &second).unwrap();
    assert!(!tls.refresh_authorities().unwrap());
    assert_eq!(shaken(&tls, &of_second).await.unwrap(), HandshakeKind::Resumed);

    fs::write(&file, first + &second).unwrap();
    assert!(tls.refresh_authorities().unwrap());
    shaken(&tls, &of_first).await.unwrap();
    shaken(&tls, &of_second).await.unwrap();
}

#[tokio::test]
async fn a_certificate_is_renewed_while_the_authorities_of_clients_can_not_be_used() {
    let dir = tempfile::tempdir().unwrap();
    let files = listener_files(dir.path());
    let file = files.client_ca_file.clone().unwrap();
    let (authorities, before) = authority(&files, "one");
    fs::write(&file, &authorities).unwrap();
    let tls = ListenerTls::new(&files).unwrap();
    shaken(&tls, &before).await.unwrap();
    fs::write(&file, "not PEM").unwrap();
    tls.refresh_authorities().unwrap_err();
    issue(&files);
    assert!(tls.refresh_certificate().unwrap());
    let (_, stranger) = authority(&files, "two");
    shaken(&tls, &stranger).await.unwrap_err();
    fs::write(&file, authorities).unwrap();
    assert!(!tls.refresh_authorities().unwrap(), "they are those in use");
    let client = ClientTls {
        ca_file: Some(files.cert_file.clone()),
        cert_file: Some(dir.path().join("one.crt")),
        key_file: Some(dir.path().join("one.key")),
        server_name: None,
    };
    let client = TlsConnector::from(Arc::new(client.client_config().unwrap()));
    shaken(&tls, &client).await.unwrap();
}

#[test]
fn without_authorities_there_is_nothing_to_renew() {
    let dir = tempfile::tempdir().unwrap();
    let files = ServerTls {
        client_ca_file: None,
        ..listener_files(dir.path())
    };
    let tls = ListenerTls::new(&files).unwrap();
    assert!(!tls.refresh_authorities().unwrap());
}
