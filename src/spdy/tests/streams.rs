//! The life of streams: ids, replies, ends, and that nothing of them stays.

use super::*;
use crate::spdy::headers::Writer;

const REPLY_TIMEOUT: Duration = Duration::from_secs(30);

fn id_of(frame: &Output) -> u32 {
    u32::from_be_bytes(frame.body[..4].try_into().unwrap())
}

#[test]
fn ids_are_odd_and_rise_from_one() {
    let mut pair = Pair::new();
    let ids = [(); 4].map(|()| pair.open(&[]).get());
    assert_eq!(ids, [1, 3, 5, 7]);
    let sent: Vec<_> = frames(&mut pair.client).iter().map(id_of).collect();
    assert_eq!(sent, ids, "in the order of their header blocks");
}

#[test]
fn exhausted_ids_are_an_error() {
    let mut pair = Pair::new();
    pair.client.next_id = Some(StreamId::new(0x7fff_fffd));
    assert_eq!(pair.open(&[]).get(), 0x7fff_fffd);
    assert_eq!(pair.open(&[]), StreamId::MAX);
    let refused = pair.client.open(&[], false, pair.now);
    assert_eq!(refused, Err(OpenError::Exhausted));
    pair.drive();
    assert_eq!(pair.server.open_streams(), 2, "the last ids work");
}

#[test]
fn missing_reply_resets_the_stream_and_frees_it() {
    let mut pair = Pair::new();
    let id = pair.open(&[]);
    frames(&mut pair.client);
    pair.pass(REPLY_TIMEOUT - Duration::from_millis(1));
    assert_eq!(frames(&mut pair.client), []);
    assert_eq!(
        pair.client.poll_timeout(),
        Some(pair.now + Duration::from_millis(1))
    );
    pair.pass(Duration::from_millis(1));
    let reset = Output::rst_stream(id, Status::CANCEL);
    assert_eq!(frames(&mut pair.client), [reset]);
    assert_eq!(pair.client.poll_event(), Some(Event::Readable(id)));
    assert_eq!(pair.client.read(id), Err(ReadError::NoReply));
    let written = pair.client.write(id, &mut Bytes::from_static(b"x"));
    assert_eq!(written, Err(WriteError::NoReply));
    pair.client.release(id);
    assert_eq!(pair.client.open_streams(), 0);
    assert_eq!(pair.client.poll_timeout(), None);
}

#[test]
fn reply_after_the_timeout_is_ignored() {
    let mut pair = Pair::new();
    let id = pair.open(&[]);
    pair.pass(REPLY_TIMEOUT);
    frames(&mut pair.client);
    events(&mut pair.client);
    let reply = Output::syn_reply(id, false, &Writer::deflated().block(&[]));
    pair.say(&[reply, data(id, b"late", true)]).unwrap();
    assert_eq!(events(&mut pair.client), []);
    assert_eq!(pair.client.read(id), Err(ReadError::NoReply));
    assert_eq!(frames(&mut pair.client), []);
}

#[test]
fn replied_streams_have_no_deadline() {
    let mut pair = Pair::new();
    let id = pair.accepted();
    assert_eq!(pair.client.poll_timeout(), None);
    pair.pass(REPLY_TIMEOUT * 1000);
    assert_eq!(pair.client.read(id), Err(ReadError::Blocked));
}

#[test]
fn released_streams_have_no_deadline() {
    let mut pair = Pair::new();
    let id = pair.open(&[]);
    pair.client.release(id);
    assert_eq!(pair.client.poll_timeout(), None);
}

#[test]
fn replies_come_in_any_order() {
    let mut pair = Pair::new();
    let (first, second) = (pair.open(&[]), pair.open(&[]));
    let mut zlib = Writer::deflated();
    let replies = [second, first].map(|id| Output::syn_reply(id, false, &zlib.block(&[])));
    pair.say(&replies).unwrap();
    let order: Vec<_> = events(&mut pair.client)
        .into_iter()
        .map(|event| match event {
            Event::Replied { id, .. } => id,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(order, [second, first]);
    assert_eq!(pair.client.poll_timeout(), None);
}

#[test]
fn reset_instead_of_a_reply_is_the_streams_end() {
    let mut pair = Pair::new();
    let (refused, other) = (pair.open(&[]), pair.open(&[]));
    pair.drive();
    pair.server.reset(refused, Status::REFUSED_STREAM);
    pair.server.reply(other, &[], false);
    pair.drive();
    let reset = ReadError::Reset(Status::REFUSED_STREAM);
    assert_eq!(pair.client.read(refused), Err(reset));
    assert_eq!(pair.client.read(other), Err(ReadError::Blocked));
}

#[test]
fn reply_with_fin_ends_the_acceptors_half() {
    let mut pair = Pair::new();
    let id = pair.open(&[]);
    pair.drive();
    pair.server.reply(id, &[], true);
    pair.drive();
    assert_eq!(pair.client.read(id), Ok(None));
    write(&mut pair.client, id, b"the other half lives");
    pair.drive();
    let read = pair.server.read(id).unwrap().unwrap();
    assert_eq!(read, "the other half lives");
    let written = pair.server.write(id, &mut Bytes::from_static(b"x"));
    assert_eq!(written, Err(WriteError::Finished));
}

#[test]
fn second_reply_is_ignored_with_its_fin() {
    let mut pair = Pair::new();
    let id = pair.open(&[]);
    let mut zlib = Writer::deflated();
    let replies = [false, true].map(|fin| Output::syn_reply(id, fin, &zlib.block(&[])));
    pair.say(&replies).unwrap();
    assert_eq!(events(&mut pair.client).len(), 1);
    assert_eq!(pair.client.read(id), Err(ReadError::Blocked));
}

#[test]
fn frames_for_unknown_streams_are_ignored_without_an_answer() {
    let mut pair = Pair::new();
    let id = pair.accepted();
    let nobody = StreamId::new(99);
    let mut headers = Output::syn_reply(nobody, true, &Writer::deflated().block(&[]));
    headers.head[3] = 8; // HEADERS
    // The server's zlib context has begun: a stray block must continue it, so this pair gets a fresh client.
    let mut fresh = Pair::new();
    fresh.say(&[headers]).unwrap();
    assert_eq!(frames(&mut fresh.client), []);
    let script = [
        data(nobody, b"lost", false),
        data(nobody, b"", true),
        Output::rst_stream(nobody, Status::CANCEL),
        data(id, b"kept", false),
    ];
    pair.say(&script).unwrap();
    assert_eq!(frames(&mut pair.client), []);
    assert_eq!(events(&mut pair.client), [Event::Readable(id)]);
    assert_eq!(pair.client.open_streams(), 1);
}

#[test]
fn data_after_fin_is_ignored() {
    let mut pair = Pair::new();
    let id = pair.accepted();
    let script = [
        data(id, b"all", true),
        data(id, b"more", false),
        data(id, b"", true),
    ];
    pair.say(&script).unwrap();
    assert_eq!(read_all(&mut pair.client, id), (b"all".to_vec(), Ok(())));
    assert_eq!(frames(&mut pair.client), []);
}

#[test]
fn fin_comes_with_headers_too() {
    let mut pair = Pair::new();
    let id = pair.open(&[]);
    let mut zlib = Writer::deflated();
    let reply = Output::syn_reply(id, false, &zlib.block(&[]));
    let mut headers = Output::syn_reply(id, true, &zlib.block(&[]));
    headers.head[3] = 8; // HEADERS
    pair.say(&[reply, headers]).unwrap();
    assert_eq!(pair.client.read(id), Ok(None));
}

#[test]
fn stream_that_the_server_opens_is_refused() {
    let mut pair = Pair::new();
    let pushed = pair.server.open(&[("a", "b")], false, pair.now).unwrap();
    write(&mut pair.server, pushed, b"unwanted");
    pair.drive();
    assert_eq!(events(&mut pair.client), []);
    assert_eq!(pair.client.open_streams(), 0);
    let refused = ReadError::Reset(Status::REFUSED_STREAM);
    assert_eq!(pair.server.read(pushed), Err(refused));
    // Later replies need the zlib context that the refused block has moved on.
    let id = pair.accepted();
    write(&mut pair.server, id, b"wanted");
    pair.drive();
    assert_eq!(pair.client.read(id).unwrap().unwrap(), "wanted");
}

#[test]
fn stream_with_an_id_of_the_acceptors_parity_is_refused() {
    let mut pair = Pair::new();
    let own = pair.server.open(&[], false, pair.now).unwrap();
    frames(&mut pair.server);
    let stolen = Output::syn_stream(own, false, &Writer::deflated().block(&[]));
    pair.server
        .handle_input(&mut wire(&[stolen]), pair.now)
        .unwrap();
    assert_eq!(events(&mut pair.server), []);
    let refused = Output::rst_stream(own, Status::PROTOCOL_ERROR);
    assert_eq!(frames(&mut pair.server), [refused]);
    assert_eq!(pair.server.read(own), Err(ReadError::Blocked));
}

#[test]
fn opener_may_write_and_finish_before_the_reply() {
    let mut pair = Pair::new();
    let id = pair.open(&[]);
    write(&mut pair.client, id, b"eager");
    pair.client.finish(id);
    pair.drive();
    assert_eq!(read_all(&mut pair.server, id), (b"eager".to_vec(), Ok(())));
}

#[test]
fn acceptors_bytes_wait_for_its_reply() {
    // spdystream drops DATA that comes before SYN_REPLY.
    let mut pair = Pair::new();
    let id = pair.open(&[]);
    pair.drive();
    write(&mut pair.server, id, b"too early");
    pair.server.finish(id);
    assert_eq!(frames(&mut pair.server), []);
    pair.server.reply(id, &[], false);
    let sent = frames(&mut pair.server);
    assert_eq!(sent[0].head[3], 2, "SYN_REPLY comes first");
    assert_eq!(
        sent[1..],
        [data(id, b"too early", false), data(id, b"", true)]
    );
}

#[test]
fn fin_of_a_reply_comes_after_what_is_queued() {
    let mut pair = Pair::new();
    let id = pair.open(&[]);
    pair.drive();
    write(&mut pair.server, id, b"queued");
    pair.server.reply(id, &[], true);
    pair.drive();
    assert_eq!(read_all(&mut pair.client, id), (b"queued".to_vec(), Ok(())));
}

#[test]
fn fin_is_sent_once_and_nothing_after_it() {
    let mut pair = Pair::new();
    let id = pair.accepted();
    write(&mut pair.client, id, b"last");
    pair.client.finish(id);
    pair.client.finish(id);
    let written = pair.client.write(id, &mut Bytes::from_static(b"x"));
    assert_eq!(written, Err(WriteError::Finished));
    let sent = frames(&mut pair.client);
    assert_eq!(sent, [data(id, b"last", false), data(id, b"", true)]);
    pair.client.finish(id);
    assert_eq!(frames(&mut pair.client), []);
}

#[test]
fn fin_with_the_syn_stream_is_not_repeated() {
    let mut pair = Pair::new();
    let id = pair.client.open(&[], true, pair.now).unwrap();
    pair.client.finish(id);
    let sent = frames(&mut pair.client);
    assert_eq!((sent.len(), sent[0].head[4]), (1, 1));
    let mut fed = wire(&sent);
    pair.server.handle_input(&mut fed, pair.now).unwrap();
    assert!(matches!(
        pair.server.poll_event(),
        Some(Event::Opened { fin: true, .. })
    ));
    assert_eq!(pair.server.read(id), Ok(None));
}

#[test]
fn reset_takes_the_place_of_queued_bytes_and_nothing_follows_it() {
    let mut pair = Pair::new();
    let id = pair.accepted();
    let before = weight(&pair.client);
    write(&mut pair.client, id, &[0; MAX_DATA]);
    pair.client.reset(id, Status::CANCEL);
    assert!(weight(&pair.client) < before + 1000, "it is kept no longer");
    pair.client.finish(id);
    pair.client.reset(id, Status::CANCEL);
    let reset = Output::rst_stream(id, Status::CANCEL);
    assert_eq!(frames(&mut pair.client), [reset]);
    assert!(!pair.client.has_output());
}

#[test]
fn stream_that_is_over_is_not_reset() {
    let mut pair = Pair::new();
    let id = pair.accepted();
    pair.client.finish(id);
    pair.server.finish(id);
    pair.drive();
    pair.client.reset(id, Status::CANCEL);
    pair.client.release(id);
    assert_eq!(frames(&mut pair.client), []);
    assert_eq!(pair.client.open_streams(), 0);
}

#[test]
fn released_stream_still_sends_what_was_finished_then_resets() {
    let mut pair = Pair::new();
    let id = pair.accepted();
    write(&mut pair.client, id, b"goodbye");
    pair.client.finish(id);
    pair.client.release(id);
    let sent = frames(&mut pair.client);
    let expected = [
        data(id, b"goodbye", false),
        data(id, b"", true),
        Output::rst_stream(id, Status::CANCEL),
    ];
    assert_eq!(sent, expected);
    assert_eq!(pair.client.open_streams(), 0);
}

#[test]
fn released_stream_is_reset_and_forgotten() {
    let mut pair = Pair::new();
    let id = pair.accepted();
    write(&mut pair.client, id, b"never finished");
    pair.client.release(id);
    assert_eq!(pair.client.open_streams(), 0);
    assert_eq!(pair.client.read(id), Err(ReadError::Unknown(id)));
    pair.drive();
    let reset = Err(ReadError::Reset(Status::CANCEL));
    assert_eq!(pair.server.read(id), reset);
    write_is_refused(&mut pair.client, id);
}

fn write_is_refused(to: &mut Connection, id: StreamId) {
    let written = to.write(id, &mut Bytes::from_static(b"x"));
    assert_eq!(written, Err(WriteError::Unknown(id)));
}

#[test]
fn accepted_stream_that_is_released_without_a_reply_is_reset() {
    let mut pair = Pair::new();
    let id = pair.open(&[]);
    pair.drive();
    write(&mut pair.server, id, b"never sent");
    pair.server.finish(id);
    pair.server.release(id);
    assert_eq!(pair.server.open_streams(), 0);
    let reset = Output::rst_stream(id, Status::CANCEL);
    assert_eq!(frames(&mut pair.server), [reset]);
}

#[test]
fn hundred_thousand_streams_leave_nothing() {
    let mut pair = Pair::new();
    let now = pair.now;
    let mut bare = 0;
    for round in 0..100_000 {
        let id = pair.open(&[("streamtype", "data")]);
        // Every third ends with FINs, the others by a reset from either side.
        transfer(&mut pair.client, &mut pair.server, now);
        if round % 3 == 1 {
            pair.server.reset(id, Status::CANCEL);
        } else {
            pair.server.reply(id, &[], round % 3 == 0);
        }
        transfer(&mut pair.server, &mut pair.client, now);
        pair.client.finish(id);
        if round % 3 == 2 {
            pair.client.reset(id, Status::CANCEL);
        }
        transfer(&mut pair.client, &mut pair.server, now);
        for side in [&mut pair.client, &mut pair.server] {
            side.release(id);
            while side.poll_event().is_some() {}
        }
        if round == 10 {
            bare = weight(&pair.client) + weight(&pair.server);
        }
    }
    assert_eq!(pair.client.open_streams() + pair.server.open_streams(), 0);
    assert_eq!(pair.client.poll_timeout(), None, "no deadline is left");
    let left = weight(&pair.client) + weight(&pair.server);
    assert!(left < bare + 100, "{bare} has grown to {left}");
}

fn transfer(from: &mut Connection, to: &mut Connection, now: Instant) {
    let sent = frames(from);
    to.handle_input(&mut wire(&sent), now).unwrap();
}
