//! Which certificates a handshake takes, and what is no handshake.

use futures_lite::{AsyncReadExt as _, AsyncWriteExt as _};
use keywire::{Server, tls::server_config};
use rcgen::date_time_ymd;

use crate::common::{Authority, TlsServer, run};

#[test]
fn certificates_that_a_client_does_not_trust_end_the_handshake() {
    run(async {
        let ours = Authority::new("ours");
        let stranger = Authority::new("stranger");
        let expired = ours.vouch_with(|params| {
            params.not_before = date_time_ymd(2001, 1, 1);
            params.not_after = date_time_ymd(2002, 1, 1);
        });
        for (config, trusted, reason) in [
            (ours.vouch().server(), &stranger, "UnknownIssuer"),
            (expired.server(), &ours, "expired"),
        ] {
            let served =
                TlsServer::behind(Server::new(), Authority::new("none"), config, |tls| tls);
            let refused = served.connect_as(trusted.client()).await.err().unwrap();
            assert!(refused.to_string().contains(reason), "{refused}");
            served.await_counts(0, 1).await;
        }
    });
}

#[test]
fn a_client_may_have_to_show_a_certificate() {
    run(async {
        let (ours, clients) = (Authority::new("ours"), Authority::new("clients"));
        let own = ours.vouch();
        let config = server_config(&own.certificate, &own.key, Some(&clients.pem())).unwrap();
        let (known, unknown) = (clients.vouch(), ours.vouch());
        let expired = clients.vouch_with(|params| params.not_after = date_time_ymd(2002, 1, 1));
        let served = TlsServer::behind(Server::new(), ours, config, |tls| tls);
        let refused = [
            (served.authority.client(), "CertificateRequired"),
            (served.authority.client_as(&unknown), "UnknownCA"),
            (served.authority.client_as(&expired), "CertificateExpired"),
        ];
        let mut gone = 0;
        for (config, reason) in refused {
            // To a client of TLS 1.3 its handshake is done before the server has seen its
            // certificate. What it says then must not cost it the reason.
            let mut client = served.connect_as(config).await.unwrap();
            let _ = client.stream().write_all(b"Put:k:v\n").await;
            let read = client.stream().read(&mut [0; 10]).await;
            let error = read.unwrap_err().to_string();
            assert!(error.contains(reason), "{error}");
            drop(client);
            gone += 1;
            served.await_counts(0, gone).await;
        }
        let config = served.authority.client_as(&known);
        let mut client = served.connect_as(config).await.unwrap();
        client.send("Get:k\nSync:nothing\n").await;
        assert_eq!(client.text().await, ":sync:0:nothing");
    });
}
