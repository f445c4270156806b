//! Full buffers on either side, floods, and the turns that writers take.

use super::*;
use crate::spdy::headers::Writer;

fn small_buffers() -> Config {
    Config {
        receive_buffer: 1000,
        send_buffer: 1000,
        ..Config::default()
    }
}

/// The server writes `length` bytes to the wire, whatever the client takes.
fn send_from_server(pair: &mut Pair, id: StreamId, length: usize) {
    let mut left = Bytes::from(vec![9; length]);
    while !left.is_empty() {
        pair.server.write(id, &mut left).unwrap();
        let sent = frames(&mut pair.server);
        pair.to_client.extend_from_slice(&wire(&sent));
    }
}

#[test]
fn unread_stream_holds_back_nobody_within_its_buffer() {
    let mut pair = Pair::new();
    let (slow, other) = (pair.accepted(), pair.accepted());
    send_from_server(&mut pair, slow, Config::default().receive_buffer);
    write(&mut pair.server, other, b"passes");
    pair.to_client
        .extend_from_slice(&hex("80030006 00000004 00000002"));
    pair.drive();
    assert!(!pair.client.paused());
    assert_eq!(pair.client.read(other).unwrap().unwrap(), "passes");
    assert_eq!(pair.client.unread(slow), Config::default().receive_buffer);
    assert_eq!(pair.client.lost(), None);
}

#[test]
fn full_buffer_pauses_the_connection_and_loses_nothing() {
    let mut pair = Pair::with(small_buffers(), Config::default());
    let (slow, other) = (pair.accepted(), pair.accepted());
    send_from_server(&mut pair, slow, 2500);
    write(&mut pair.server, other, b"behind it");
    pair.drive();
    assert!(pair.client.paused());
    assert_eq!(pair.client.unread(slow), 1000);
    assert_eq!(pair.client.read(other), Err(ReadError::Blocked));
    let mut read = 0;
    while let Ok(Some(chunk)) = pair.client.read(slow) {
        read += chunk.len();
        pair.drive();
    }
    assert_eq!(read, 2500);
    assert!(!pair.client.paused());
    assert_eq!(pair.client.read(other).unwrap().unwrap(), "behind it");
}

#[test]
fn pause_ends_when_the_buffer_is_half_empty() {
    let config = Config {
        receive_buffer: 8 * 8192,
        ..Config::default()
    };
    let mut pair = Pair::with(config, Config::default());
    let id = pair.accepted();
    let frame = Output::data(id, false, vec![1; 8192].into());
    let mut input = wire(&vec![frame; 9]);
    pair.client.handle_input(&mut input, pair.now).unwrap();
    let pauses: Vec<_> = (0..8)
        .map(|_| {
            pair.client.read(id).unwrap();
            pair.client.paused()
        })
        .collect();
    assert_eq!(
        pauses,
        [true, true, true, false, false, false, false, false]
    );
    assert_eq!(
        input.len(),
        8192,
        "the ninth frame's payload still lies there"
    );
}

#[test]
fn reset_or_release_of_the_full_stream_ends_the_pause() {
    for release in [true, false] {
        let mut pair = Pair::with(small_buffers(), Config::default());
        let (slow, other) = (pair.accepted(), pair.accepted());
        send_from_server(&mut pair, slow, 50_000);
        write(&mut pair.server, other, b"freed");
        pair.drive();
        assert!(pair.client.paused());
        if release {
            pair.client.release(slow);
        } else {
            pair.client.reset(slow, Status::CANCEL);
        }
        assert!(!pair.client.paused());
        pair.drive();
        assert_eq!(pair.client.read(other).unwrap().unwrap(), "freed");
        assert!(pair.client.unread(slow) <= 1000);
    }
}

#[test]
fn flood_on_an_unread_stream_is_bounded() {
    let mut pair = Pair::with(small_buffers(), Config::default());
    let id = pair.accepted();
    let mut flood = wire(&[Output::data(id, false, vec![b'x'; 8 << 20].into())]);
    for _ in 0..1000 {
        pair.client.handle_input(&mut flood, pair.now).unwrap();
    }
    assert_eq!(pair.client.unread(id), 1000);
    assert_eq!(flood.len(), (8 << 20) - 1000);
}

#[test]
fn flood_on_a_released_stream_is_dropped() {
    let mut pair = Pair::with(small_buffers(), Config::default());
    let id = pair.accepted();
    write(&mut pair.client, id, b"on its way");
    pair.client.finish(id);
    pair.client.release(id);
    let flood = Output::data(id, false, vec![b'x'; 1 << 20].into());
    pair.say(&[flood]).unwrap();
    assert!(!pair.client.paused());
    assert_eq!(pair.client.unread(id), 0);
    assert_eq!(frames(&mut pair.client).len(), 3, "DATA, FIN, RST");
}

#[test]
fn small_and_large_chunks_keep_their_order() {
    let mut pair = Pair::new();
    let id = pair.accepted();
    let mut sent = Vec::new();
    for (round, length) in [1, 3000, 5, 2047, 2048, 2049, 7, 7, 30_000]
        .into_iter()
        .enumerate()
    {
        let body = vec![round as u8; length];
        sent.extend_from_slice(&body);
        pair.say(&[Output::data(id, false, body.into())]).unwrap();
    }
    assert_eq!(read_all(&mut pair.client, id).0, sent);
}

#[test]
fn small_chunks_are_joined() {
    let mut pair = Pair::new();
    let id = pair.accepted();
    for _ in 0..10_000 {
        pair.say(&[data(id, b"!", false)]).unwrap();
    }
    let mut chunks = 0;
    while let Ok(Some(_)) = pair.client.read(id) {
        chunks += 1;
    }
    assert!(chunks <= 10, "{chunks} buffers for 10,000 bytes");
}

#[test]
fn peer_that_pings_and_never_reads_is_bounded() {
    let mut pair = Pair::new();
    let flood = vec![Output::ping(2); 100_000];
    pair.say(&flood).unwrap();
    assert!(frames(&mut pair.client).len() <= 64);
    // Once it reads again, it gets answers again.
    pair.say(&[Output::ping(4)]).unwrap();
    assert_eq!(frames(&mut pair.client), [Output::ping(4)]);
}

#[test]
fn peer_that_opens_streams_at_a_client_and_never_reads_is_bounded() {
    let mut pair = Pair::new();
    let mut zlib = Writer::deflated();
    for id in 1..20_000 {
        let block = zlib.block(&[("push", "unwanted")]);
        pair.say(&[Output::syn_stream(StreamId::new(2 * id), false, &block)])
            .unwrap();
    }
    assert_eq!(pair.client.open_streams(), 0);
    assert_eq!(events(&mut pair.client), []);
    assert!(frames(&mut pair.client).len() <= 1024);
}

#[test]
fn streams_that_a_server_accepts_are_bounded() {
    let mut pair = Pair::new();
    for _ in 0..17_000 {
        pair.client.open(&[], false, pair.now).unwrap();
    }
    pair.drive();
    assert_eq!(pair.server.open_streams(), 16 * 1024);
    assert_eq!(events(&mut pair.server).len(), 16 * 1024);
    // Those past the bound know.
    let last = StreamId::new(2 * 17_000 - 1);
    let refused = Err(ReadError::Reset(Status::REFUSED_STREAM));
    assert_eq!(pair.client.read(last), refused);
}

#[test]
fn writer_blocks_at_the_send_buffer_and_is_woken_once_there_is_room() {
    for send_buffer in [1, 1000, MAX_DATA, 2 * MAX_DATA, 1 << 20] {
        let config = Config {
            send_buffer,
            ..Config::default()
        };
        let mut pair = Pair::with(config, Config::default());
        let id = pair.accepted();
        let mut data = Bytes::from(vec![0; 2 << 20]);
        assert_eq!(pair.client.write(id, &mut data), Ok(send_buffer));
        assert_eq!(pair.client.write(id, &mut data), Err(WriteError::Blocked));
        assert_eq!(pair.client.poll_event(), None);
        frames(&mut pair.client);
        let woken = events(&mut pair.client);
        assert_eq!(woken, [Event::Writable(id)], "send buffer of {send_buffer}");
        assert!(pair.client.write(id, &mut data).is_ok());
    }
}

#[test]
fn writer_in_crumbs_is_woken_too() {
    let mut pair = Pair::new();
    let id = pair.accepted();
    while pair
        .client
        .write(id, &mut Bytes::from_static(b"crumbs"))
        .is_ok()
    {}
    assert_eq!(pair.client.poll_event(), None);
    let sent: usize = frames(&mut pair.client).iter().map(|f| f.body.len()).sum();
    assert_eq!(sent, Config::default().send_buffer);
    assert_eq!(pair.client.poll_event(), Some(Event::Writable(id)));
}

#[test]
fn hundred_writers_take_turns() {
    let mut pair = Pair::new();
    let ids: Vec<_> = (0..100).map(|_| pair.accepted()).collect();
    let body = Bytes::from(vec![0; 2 * MAX_DATA]);
    for id in &ids {
        pair.client.write(*id, &mut body.clone()).unwrap();
    }
    let turns = |pair: &mut Pair, refill: bool| -> Vec<_> {
        (0..100)
            .map(|_| {
                let frame = pair.client.poll_output().unwrap();
                let id = StreamId::new(u32::from_be_bytes(frame.head[..4].try_into().unwrap()));
                if refill {
                    pair.client.write(id, &mut body.clone()).unwrap();
                }
                id
            })
            .collect()
    };
    for round in 0..10 {
        assert_eq!(turns(&mut pair, true), ids, "round {round}");
    }
    // One that always has more doesn't come before one that has little.
    let late = pair.open(&[]);
    assert_eq!(pair.client.poll_output().unwrap().head[3], 1, "SYN_STREAM");
    write(&mut pair.client, late, b"x");
    let order = turns(&mut pair, true);
    assert_eq!(order, ids);
    let next = pair.client.poll_output().unwrap();
    assert_eq!(next, data(late, b"x", false));
}

#[test]
fn control_frames_and_answers_to_pings_overtake_data() {
    let mut pair = Pair::new();
    let (busy, other) = (pair.accepted(), pair.accepted());
    let body = Bytes::from(vec![0; 2 * MAX_DATA]);
    pair.client.write(busy, &mut body.clone()).unwrap();
    pair.client.poll_output().unwrap();
    pair.say(&[Output::ping(2)]).unwrap();
    pair.client.reset(other, Status::CANCEL);
    assert_eq!(pair.client.poll_output(), Some(Output::ping(2)));
    let reset = Output::rst_stream(other, Status::CANCEL);
    assert_eq!(pair.client.poll_output(), Some(reset));
    assert_eq!(pair.client.poll_output().unwrap().body.len(), MAX_DATA);
}
