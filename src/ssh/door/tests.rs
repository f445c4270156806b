use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::time::timeout;

use super::penalties::Table;
use super::{Admitted, Config, Door, Limit, startups};

const SOON: Duration = Duration::from_secs(20);
const A_MOMENT: Duration = Duration::from_millis(100);

async fn door(config: Config) -> (Door, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (Door::new(vec![listener], config), address)
}

/// From another loopback address each number, so that it is another source.
async fn connect_from(number: u8, door: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(([127, 0, 0, number], 0).into()).unwrap();
    timeout(SOON, socket.connect(door)).await.unwrap().unwrap()
}

async fn admitted(door: &mut Door) -> Admitted {
    timeout(SOON, door.accept())
        .await
        .expect("nobody was let in")
}

/// What a connection that is turned away is told, while the door is open.
async fn told(door: &mut Door, mut client: TcpStream) -> String {
    let mut text = String::new();
    tokio::select! {
        admitted = door.accept() => panic!("{admitted:?}"),
        read = timeout(SOON, client.read_to_string(&mut text)) => { read.unwrap().unwrap(); }
    }
    text
}

fn refusals(door: &Door, limit: Limit) -> u64 {
    door.watch().refused(limit)
}

#[tokio::test]
async fn places_are_given_back() {
    let (mut door, address) = door(Config::default()).await;
    let watch = door.watch();
    let mut places = Vec::new();
    for _ in 0..8 {
        let client = connect_from(1, address).await;
        places.push((client, admitted(&mut door).await));
    }
    assert_eq!((watch.unauthenticated(), watch.connections()), (8, 8));
    let client = connect_from(1, address).await;
    assert_eq!(told(&mut door, client).await, "Exceeded MaxStartups\r\n");
    assert_eq!(refusals(&door, Limit::PerSource), 1);

    places[0].1.permit.authenticated("alice").unwrap();
    assert_eq!((watch.unauthenticated(), watch.connections()), (7, 8));
    let (client, one) = (connect_from(1, address).await, admitted(&mut door).await);
    // The place is taken as long as the stream or a permit is there.
    let permit = one.permit.clone();
    drop((client, one));
    assert_eq!(watch.connections(), 9);
    drop(permit);
    assert_eq!(watch.connections(), 8);
    drop(places);
    assert_eq!((watch.unauthenticated(), watch.connections()), (0, 0));
}

#[tokio::test]
async fn too_many_in_all_or_of_one_user() {
    let config = Config {
        max_connections: 3,
        max_per_user: 2,
        ..Config::default()
    };
    let (mut door, address) = door(config).await;
    let mut places = Vec::new();
    for _ in 0..3 {
        let client = connect_from(1, address).await;
        places.push((client, admitted(&mut door).await));
    }
    let client = connect_from(1, address).await;
    assert_eq!(told(&mut door, client).await, "Too many connections\r\n");
    let log_in = |at: usize| places[at].1.permit.authenticated("alice");
    assert_eq!((log_in(0), log_in(0), log_in(1)), (Ok(()), Ok(()), Ok(())));
    assert_eq!(log_in(2), Err(Limit::PerUser));
    drop(places);
    assert_eq!(door.watch().penalised(), 0);
}

#[tokio::test]
async fn whoever_does_not_log_in_in_time_is_cut_and_pays_for_it() {
    let config = Config {
        grace: Duration::from_millis(50),
        penalties: Table {
            grace: Duration::from_secs(20),
            ..Table::default()
        },
        ..Config::default()
    };
    let (mut door, address) = door(config).await;
    let mut client = connect_from(1, address).await;
    let Admitted {
        mut stream, permit, ..
    } = admitted(&mut door).await;
    client.write_all(b"SSH-2.0-x\r\n").await.unwrap();
    let mut all = Vec::new();
    let read = timeout(SOON, stream.read_to_end(&mut all)).await.unwrap();
    assert_eq!(read.unwrap_err().to_string(), "no login in time");
    assert_eq!(permit.authenticated("alice"), Err(Limit::Grace));
    drop((stream, permit));
    assert_eq!(client.read(&mut [0; 8]).await.unwrap_or(0), 0);

    let again = connect_from(1, address).await;
    assert_eq!(told(&mut door, again).await, "Not allowed at this time\r\n");
    assert_eq!(door.watch().penalised(), 1);
    assert_eq!(
        (
            refusals(&door, Limit::Grace),
            refusals(&door, Limit::Penalty)
        ),
        (1, 1)
    );
    let _other = connect_from(2, address).await;
    admitted(&mut door).await;
}

#[tokio::test]
async fn failures_count_unless_a_login_follows() {
    let (mut door, address) = door(Config::default()).await;
    for round in 0..4 {
        let _client = connect_from(1, address).await;
        let one = admitted(&mut door).await;
        one.permit.auth_failed();
        one.permit.authenticated("alice").unwrap();
        drop(one);
        assert_eq!(door.watch().penalised(), 0, "{round}");
    }
    for round in 0..4 {
        let _client = connect_from(1, address).await;
        let one = admitted(&mut door).await;
        one.permit.auth_failed();
        assert_eq!(door.watch().penalised(), 0, "{round}");
    }
    assert_eq!(door.watch().penalised(), 1);
}

#[tokio::test]
async fn a_gateway_that_stops_penalises_nobody() {
    let table = Table {
        min: Duration::ZERO,
        ..Table::default()
    };
    let config = Config {
        penalties: table,
        ..Config::default()
    };
    let (mut door, address) = door(config).await;
    let _client = connect_from(1, address).await;
    admitted(&mut door).await.permit.forgive();
    assert_eq!(door.watch().penalised(), 0);
    admitted_and_gone(&mut door, address).await;
    assert_eq!(door.watch().penalised(), 1);
}

async fn admitted_and_gone(door: &mut Door, address: SocketAddr) {
    let _client = connect_from(1, address).await;
    admitted(door).await;
}

const HEADER: &[u8] =
    b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xcb\x00\x71\x09\x0a\0\0\x01\xc7\x5a\0\x16";

fn behind_a_balancer() -> Config {
    Config {
        proxies: vec!["127.0.0.1/32".parse().unwrap()],
        ..Config::default()
    }
}

#[tokio::test]
async fn a_balancer_says_where_a_connection_comes_from() {
    let (mut door, address) = door(behind_a_balancer()).await;
    let mut client = connect_from(1, address).await;
    client.write_all(&HEADER[..5]).await.unwrap();
    let waiting = timeout(A_MOMENT, door.accept()).await;
    assert!(waiting.is_err(), "{waiting:?}");
    let rest = [&HEADER[5..], b"SSH-2.0-x\r\n"].concat();
    client.write_all(&rest).await.unwrap();
    let mut one = admitted(&mut door).await;
    assert_eq!(one.source, "203.0.113.9:51034".parse().unwrap());
    assert_eq!(one.proxy, Some(client.local_addr().unwrap()));
    let mut line = [0; 11];
    one.stream.read_exact(&mut line).await.unwrap();
    assert_eq!(&line, b"SSH-2.0-x\r\n");
}

#[tokio::test]
async fn a_balancer_that_is_silent_or_wrong_holds_nobody_up() {
    let (mut door, address) = door(behind_a_balancer()).await;
    let mut silent = connect_from(1, address).await;
    let mut wrong = connect_from(1, address).await;
    wrong.write_all(b"SSH-2.0-x\r\n").await.unwrap();
    let mut first = connect_from(1, address).await;
    first
        .write_all(b"PROXY TCP4 1.2.3.4 5.6.7.8 9 22\r\n")
        .await
        .unwrap();
    let mut other = connect_from(2, address).await;
    let mut one = admitted(&mut door).await; // while the others are still waited for
    assert_eq!(one.source, other.local_addr().unwrap());

    // Nobody else may send one.
    other.write_all(HEADER).await.unwrap();
    let error = one.stream.read(&mut [0; 64]).await.unwrap_err();
    assert_eq!(error.to_string(), "not SSH");

    for client in [&mut silent, &mut wrong, &mut first] {
        let mut buffer = [0; 8];
        tokio::select! {
            admitted = door.accept() => panic!("{admitted:?}"),
            read = timeout(SOON, client.read(&mut buffer)) => assert_eq!(read.unwrap().unwrap_or(0), 0),
        }
    }
    assert_eq!(refusals(&door, Limit::Proxy), 3);
}

#[tokio::test]
async fn a_flood_is_thinned_out_before_the_door_is_full() {
    let config = Config {
        startups: startups::Limits {
            begin: 5,
            rate: 50,
            full: 10,
            per_source: 1000,
        },
        ..Config::default()
    };
    let (mut door, address) = door(config).await;
    let flood = tokio::spawn(async move {
        let mut clients = Vec::new();
        for _ in 0..200 {
            clients.push(connect_from(1, address).await);
        }
        clients
    });
    let mut places = Vec::new();
    while places.len() as u64 + refusals(&door, Limit::Startups) < 200 {
        if let Ok(one) = timeout(A_MOMENT, door.accept()).await {
            places.push(one);
        }
    }
    let clients = flood.await.unwrap();
    assert!((5..=10).contains(&places.len()), "{}", places.len());
    assert_eq!(
        refusals(&door, Limit::Startups) as usize,
        200 - places.len()
    );
    drop((places, clients));
    let _one = connect_from(1, address).await;
    admitted(&mut door).await;
}

#[tokio::test]
async fn refusals_are_told_without_a_flood_of_lines() {
    let config = Config {
        max_connections: 0,
        ..Config::default()
    };
    let (door, address) = door(config).await;
    let told = Arc::<Mutex<Vec<_>>>::default();
    let hear = told.clone();
    let mut door = door.on_refusal(Arc::new(move |source, limit, count| {
        hear.lock().unwrap().push((source, limit, count));
    }));
    let first = connect_from(1, address).await;
    let from = first.local_addr().unwrap();
    self::told(&mut door, first).await;
    for _ in 0..50 {
        let client = connect_from(1, address).await;
        self::told(&mut door, client).await;
    }
    let told = told.lock().unwrap();
    assert_eq!(told[0], (Some(from), Limit::Total, 1));
    assert!(told.len() < 25, "{}", told.len()); // one, unless this took seconds
    assert_eq!(refusals(&door, Limit::Total), 51);
}

#[tokio::test]
async fn several_sockets_are_accepted_on_in_turn() {
    let listeners = [
        TcpListener::bind("127.0.0.1:0").await.unwrap(),
        TcpListener::bind("127.0.0.1:0").await.unwrap(),
    ];
    let addresses = listeners.each_ref().map(|one| one.local_addr().unwrap());
    let mut door = Door::new(listeners.into(), Config::default());
    let mut clients = Vec::new();
    for (number, address) in [0, 0, 0, 1].into_iter().enumerate() {
        clients.push(connect_from(number as u8 + 1, addresses[address]).await);
    }
    let first = admitted(&mut door).await;
    let second = admitted(&mut door).await;
    let sources = [first.source, second.source];
    assert!(
        sources.contains(&clients[3].local_addr().unwrap()),
        "{sources:?}"
    );
}
