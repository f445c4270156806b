//! The ends of streams and connections, each told from the others, and each after the last byte.

use super::*;
use crate::spdy::headers::Writer;

/// A client's stream with two bytes unread, and then this.
fn after_two_bytes(end: impl FnOnce(&mut Pair, StreamId)) -> (Vec<u8>, Result<(), ReadError>) {
    let mut pair = Pair::new();
    let id = pair.accepted();
    pair.say(&[data(id, b"ab", false)]).unwrap();
    end(&mut pair, id);
    read_all(&mut pair.client, id)
}

#[test]
fn every_end_is_told_apart_and_comes_after_the_last_byte() {
    let reset = Status::CANCEL;
    type End = fn(&mut Pair, StreamId);
    let cases: [(End, Result<(), ReadError>); 7] = [
        (|p, id| p.say(&[data(id, b"", true)]).unwrap(), Ok(())),
        (
            |p, id| p.say(&[Output::rst_stream(id, Status::CANCEL)]).unwrap(),
            Err(ReadError::Reset(reset)),
        ),
        (
            |p, id| p.client.reset(id, Status::CANCEL),
            Err(ReadError::Reset(reset)),
        ),
        (
            |p, _| p.say(&[Output::go_away(0, 0)]).unwrap(),
            Err(ReadError::Lost(Lost::GoAway)),
        ),
        (
            |p, _| p.client.handle_end(),
            Err(ReadError::Lost(Lost::Cut)),
        ),
        (
            |p, _| assert!(p.say(&[Output::ping(0)]).is_err()),
            Err(ReadError::Lost(Lost::Protocol(Error::PingZero))),
        ),
        (|p, _| p.client.close(), Err(ReadError::Lost(Lost::Closed))),
    ];
    for (end, expected) in cases {
        assert_eq!(after_two_bytes(end), (b"ab".to_vec(), expected));
    }
}

#[test]
fn first_end_counts() {
    let fin_then_all = after_two_bytes(|pair, id| {
        pair.say(&[data(id, b"c", true)]).unwrap();
        pair.say(&[
            Output::rst_stream(id, Status::CANCEL),
            Output::go_away(0, 0),
        ])
        .unwrap();
        pair.client.handle_end();
    });
    assert_eq!(fin_then_all, (b"abc".to_vec(), Ok(())));
    let reset_then_lost = after_two_bytes(|pair, id| {
        pair.say(&[Output::rst_stream(id, Status(6)), data(id, b"x", true)])
            .unwrap();
        pair.client.handle_end();
    });
    let reset = Err(ReadError::Reset(Status(6)));
    assert_eq!(reset_then_lost, (b"ab".to_vec(), reset));
}

#[test]
fn writers_learn_the_end_too() {
    let mut pair = Pair::new();
    let (reset, lost) = (pair.accepted(), pair.accepted());
    for id in [reset, lost] {
        while pair.client.write(id, &mut vec![0; 9999].into()).is_ok() {}
    }
    pair.say(&[
        Output::rst_stream(reset, Status::CANCEL),
        Output::go_away(0, 0),
    ])
    .unwrap();
    let expected = [
        Event::Readable(reset),
        Event::Writable(reset),
        Event::Readable(lost),
        Event::Writable(lost),
        Event::Lost(Lost::GoAway),
    ];
    assert_eq!(events(&mut pair.client), expected);
    let mut write = |id| pair.client.write(id, &mut Bytes::from_static(b"x"));
    assert_eq!(write(reset), Err(WriteError::Reset(Status::CANCEL)));
    assert_eq!(write(lost), Err(WriteError::Lost(Lost::GoAway)));
}

#[test]
fn go_away_in_a_burst_ends_everything_where_it_stands() {
    let mut pair = Pair::new();
    let (done, open) = (pair.accepted(), pair.accepted());
    pair.client.finish(done);
    frames(&mut pair.client);
    write(&mut pair.client, open, b"never sent");
    let unsent = pair.open(&[]);
    let burst = [
        data(done, b"whole", true),
        data(open, b"before", false),
        Output::ping(2),
        Output::go_away(0, 0),
        data(open, b"after", true),
        Output::ping(2),
    ];
    pair.say(&burst).unwrap();
    assert_eq!(
        read_all(&mut pair.client, done),
        (b"whole".to_vec(), Ok(()))
    );
    let lost = Err(ReadError::Lost(Lost::GoAway));
    assert_eq!(read_all(&mut pair.client, open), (b"before".to_vec(), lost));
    let refused = pair.client.open(&[], false, pair.now);
    assert_eq!(refused, Err(OpenError::Lost(Lost::GoAway)));
    assert!(!pair.client.has_output());
    assert_eq!(frames(&mut pair.client), []);
    assert_eq!(pair.client.poll_timeout(), None);
    for id in [done, open, unsent] {
        pair.client.release(id);
    }
    assert_eq!(pair.client.open_streams(), 0);
    assert_eq!(frames(&mut pair.client), []);
}

#[test]
fn protocol_error_ends_every_stream_and_takes_no_more() {
    let mut pair = Pair::new();
    let id = pair.accepted();
    let error = pair.say(&[Output::ping(0), data(id, b"x", true)]);
    assert_eq!(error, Err(Error::PingZero));
    let mut more = wire(&[data(id, b"y", true)]);
    assert_eq!(pair.client.handle_input(&mut more, pair.now), Ok(()));
    assert!(more.is_empty());
    assert_eq!(pair.client.unread(id), 0);
    assert_eq!(events(&mut pair.client).len(), 2, "Readable and Lost, once");
}

#[test]
fn close_resets_what_is_open_and_says_goodbye_last() {
    let mut pair = Pair::new();
    let ids = [(); 3].map(|()| pair.accepted());
    pair.client.finish(ids[0]);
    pair.server.finish(ids[0]);
    pair.drive();
    pair.client.close();
    pair.client.close();
    let expected = [
        Output::rst_stream(ids[1], Status::CANCEL),
        Output::rst_stream(ids[2], Status::CANCEL),
        Output::go_away(0, 0),
    ];
    let sent = frames(&mut pair.client);
    assert_eq!(sent, expected);
    let mut sent = wire(&sent);
    pair.server.handle_input(&mut sent, pair.now).unwrap();
    assert_eq!(pair.server.lost(), Some(&Lost::GoAway));
    assert_eq!(pair.server.read(ids[0]), Ok(None));
}

#[test]
fn server_says_which_stream_it_saw_last() {
    let mut pair = Pair::new();
    pair.accepted();
    let last = pair.accepted();
    for id in [StreamId::new(1), last] {
        pair.server.release(id);
    }
    frames(&mut pair.server);
    pair.server.close();
    let goodbye = Output::go_away(last.get(), 0);
    assert_eq!(frames(&mut pair.server), [goodbye]);
}

#[test]
fn nothing_works_and_nothing_breaks_after_the_end() {
    let mut pair = Pair::new();
    let id = pair.accepted();
    pair.client.handle_end();
    events(&mut pair.client);
    pair.client.finish(id);
    pair.client.reset(id, Status::CANCEL);
    pair.client.reply(id, &[], true);
    pair.client.close();
    pair.client.set_blocked(true, pair.now);
    pair.pass(Duration::from_secs(3600));
    assert_eq!(pair.client.lost(), Some(&Lost::Cut));
    assert_eq!(frames(&mut pair.client), []);
    assert_eq!(events(&mut pair.client), []);
    pair.client.release(id);
    assert_eq!(pair.client.open_streams(), 0);
}

#[test]
fn wire_cut_at_any_byte_never_looks_like_a_fin() {
    let mut zlib = Writer::deflated();
    let id = StreamId::new(1);
    let transcript = wire(&[
        Output::ping(2),
        Output::syn_reply(id, false, &zlib.block(&[("a", "b")])),
        data(id, b"some bytes", false),
        data(id, b"the last ones", true),
    ]);
    for cut in 0..=transcript.len() {
        let mut pair = Pair::new();
        assert_eq!(pair.open(&[]), id);
        let mut input = transcript.slice(..cut);
        pair.client.handle_input(&mut input, pair.now).unwrap();
        pair.client.handle_end();
        let (bytes, end) = read_all(&mut pair.client, id);
        assert!(b"some bytesthe last ones".starts_with(&bytes[..]));
        let whole = cut == transcript.len();
        let lost = Err(ReadError::Lost(Lost::Cut));
        assert_eq!(end, if whole { Ok(()) } else { lost }, "cut at {cut}");
    }
}

#[test]
fn server_closes_while_the_client_is_paused() {
    let config = Config {
        receive_buffer: 4,
        ..Config::default()
    };
    let mut pair = Pair::with(config, Config::default());
    let id = pair.accepted();
    let mut input = wire(&[data(id, b"12345678", false), Output::go_away(0, 0)]);
    let mut read = Vec::new();
    while !input.is_empty() {
        pair.client.handle_input(&mut input, pair.now).unwrap();
        let (bytes, end) = read_all(&mut pair.client, id);
        read.extend(bytes);
        assert_ne!(end, Ok(()));
    }
    assert_eq!(read, b"12345678");
    assert_eq!(pair.client.lost(), Some(&Lost::GoAway));
}
