//! Who may forward: verbs and transports over the versions, as API servers decide it.

use hyper::StatusCode;

use crate::playground::{Options, Playground};
use crate::upgrade;

const PATH: &str = "/api/v1/namespaces/team-b/pods/web/portforward";
const TUNNEL: &str = "SPDY/3.1+portforward.k8s.io";

fn playground(version: &str) -> Playground {
    let options = Options {
        server_version: version.to_owned(),
        ..Options::default()
    };
    Playground::start(options).expect("a playground")
}

#[tokio::test]
async fn a_role_decides_which_transport_works() {
    const YES: StatusCode = StatusCode::SWITCHING_PROTOCOLS;
    const NO: StatusCode = StatusCode::FORBIDDEN;
    for (user, post, get_before, get_since) in [
        ("viewer", NO, NO, NO),
        ("get-only", NO, YES, NO),
        ("create-only", YES, NO, NO),
        ("stream-only", YES, YES, YES),
        ("exec-only", NO, NO, NO),
        ("admin", YES, YES, YES),
        ("cert", YES, YES, YES),
        ("plugin", YES, YES, YES),
    ] {
        for (version, get) in [
            ("1.34", get_before),
            ("1.35", get_since),
            ("1.36", get_since),
        ] {
            let playground = playground(version);
            let spdy = upgrade::spdy(&playground, user, PATH).await;
            assert_eq!(spdy.status(), post, "{user} POST {version}");
            let tunnel = upgrade::websocket(&playground, user, PATH, TUNNEL).await;
            assert_eq!(tunnel.status(), get, "{user} GET {version}");
            let path = format!("{PATH}?ports=7");
            let legacy = upgrade::websocket(&playground, user, &path, "v4.channel.k8s.io").await;
            assert_eq!(legacy.status(), get, "{user} legacy GET {version}");
        }
    }
}

#[tokio::test]
async fn refusals_have_the_api_servers_words() {
    let playground = playground("1.36");
    let viewer = upgrade::spdy(&playground, "viewer", PATH).await;
    assert_eq!(
        viewer.message(),
        "pods \"web\" is forbidden: User \"viewer\" cannot create resource \"pods/portforward\" \
         in API group \"\" in the namespace \"team-b\""
    );
    let get_only = upgrade::websocket(&playground, "get-only", PATH, TUNNEL).await;
    assert_eq!(get_only.message(), "pods \"web\" is forbidden: ");
    let wrong = upgrade::spdy(&playground, "wrong", PATH).await;
    assert_eq!(wrong.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(wrong.message(), "Unauthorized");
    let missing = PATH.replace("web", "nothing");
    let missing = upgrade::spdy(&playground, "admin", &missing).await;
    assert_eq!(missing.status(), StatusCode::NOT_FOUND);
    assert_eq!(missing.message(), "pods \"nothing\" not found");
    let pending = PATH.replace("web", "pending");
    let pending = upgrade::spdy(&playground, "admin", &pending).await;
    assert_eq!(pending.status(), StatusCode::BAD_REQUEST);
    assert_eq!(
        pending.message(),
        "pod pending does not have a host assigned"
    );
    let done = PATH.replace("web", "done");
    let done = upgrade::spdy(&playground, "admin", &done).await;
    assert_eq!(done.status(), StatusCode::INTERNAL_SERVER_ERROR);
    assert_eq!(done.body(), "pod not found (\"done_team-b\")\n");
}

#[tokio::test]
async fn an_old_server_has_no_tunnel() {
    for version in ["1.29", "1.30"] {
        let playground = playground(version);
        let reply = upgrade::websocket(&playground, "admin", PATH, TUNNEL).await;
        assert_eq!(reply.status(), StatusCode::BAD_REQUEST);
        assert_eq!(reply.body(), "query parameter \"port\" is required\n");
        // with ports it reaches the runtime, whose WebSocket server knows no such protocol
        let path = format!("{PATH}?ports=7");
        let reply = upgrade::websocket(&playground, "admin", &path, TUNNEL).await;
        assert_eq!((reply.status(), reply.body()), (StatusCode::FORBIDDEN, ""));
    }
}
