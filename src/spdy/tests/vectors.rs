//! Bytes that Go's spdystream v0.5.1 wrote, and what it accepts.

use super::*;
use crate::spdy::headers::{DICTIONARY, DICTIONARY_ID};

const SYN_ERROR: &str = "80030001 0000003e 00000001 00000000 00 00
    78f9e3c6a7c202253a060606ce2248fc6482d22da30138e59514a526e6420b17d65450d0430aea22709eb030b03000000000ffff";
const SYN_DATA: &str = "80030001 0000001a 00000003 00000000 00 00 826a4617236418a8a44a04000000ffff";
const REPLY_1: &str = "80030002 00000014 00000001 78f9e3c6a7c26260606000000000ffff";
const REPLY_3: &str = "80030002 0000000c 00000003 026100000000ffff";

#[test]
fn dictionary_is_the_one_of_spdy_3() {
    let mut crc = flate2::Crc::new();
    crc.update(&DICTIONARY);
    assert_eq!(crc.sum(), 0x04c8_490e);
    let adler = flate2::Compress::new(flate2::Compression::fast(), true)
        .set_dictionary(&DICTIONARY)
        .unwrap();
    assert_eq!(adler, DICTIONARY_ID);
}

#[test]
fn go_header_blocks_are_read_in_sequence() {
    let now = Instant::now();
    let mut server = Connection::server(Config::default(), now);
    let mut input = hex(&[SYN_ERROR, SYN_DATA].concat());
    server.handle_input(&mut input, now).unwrap();
    let opened: Vec<_> = events(&mut server)
        .into_iter()
        .map(|event| match event {
            Event::Opened { id, headers, fin } => {
                assert!(!fin);
                let text = |name| headers.get(name).unwrap().to_owned();
                (
                    id.get(),
                    text("streamtype"),
                    text("port"),
                    text("requestid"),
                )
            }
            other => panic!("{other:?}"),
        })
        .collect();
    let expected = |id, kind: &str| (id, kind.to_owned(), "8080".to_owned(), "0".to_owned());
    assert_eq!(opened, [expected(1, "error"), expected(3, "data")]);
}

#[test]
fn go_replies_are_read_in_the_order_of_the_wire() {
    let mut pair = Pair::new();
    let (first, second) = (pair.open(&[]), pair.open(&[]));
    let mut input = hex(&[REPLY_1, REPLY_3].concat());
    pair.client.handle_input(&mut input, pair.now).unwrap();
    let replied = events(&mut pair.client);
    let expected = [first, second].map(|id| Event::Replied {
        id,
        headers: Headers::default(),
    });
    assert_eq!(replied, expected);
}

#[test]
fn zlib_at_another_level_and_without_matches_is_read() {
    // flate2 at level 9, then a peer that stores and never compresses.
    let mut deflated = headers::Inflater::default();
    let first = "78f9e3c6a7c202253a703a2b294a4dcc851625aca9a0808614cb45e01c6061606100a4398b20d198094ade8c0600000000ffff";
    let second = "c2aa19540e2512d60b000000ffff";
    for (block, kind) in [(first, "error"), (second, "data")] {
        let headers = deflated.block(&hex(block)).unwrap();
        let expected = [("streamtype", kind), ("port", "8080"), ("requestid", "0")];
        assert!(headers.iter().eq(expected));
    }
    let now = Instant::now();
    let mut server = Connection::server(Config::default(), now);
    let mut stored = hex("8003000100000053000000010000000000007801003d00c2ff000000030000000a73747265616d74
        797065000000056572726f7200000004706f72740000000438303830000000097265717565737469640000000130000000ffff");
    server.handle_input(&mut stored, now).unwrap();
    let Some(Event::Opened { headers, .. }) = server.poll_event() else {
        panic!("the stream is not opened");
    };
    assert_eq!(headers.get("port"), Some("8080"));
}

#[test]
fn frames_without_headers_are_written_as_go_writes_them() {
    let mut pair = Pair::new();
    let one = pair.accepted();
    let three = pair.accepted();
    pair.client.finish(one);
    write(&mut pair.client, three, b"hello");
    let mut expected = vec![
        hex("00000001 01000000"),
        hex("00000003 00000005 68656c6c6f"),
    ];
    let mut sent: Vec<_> = frames(&mut pair.client);
    pair.client.reset(three, Status::CANCEL);
    sent.extend(frames(&mut pair.client));
    expected.push(hex("80030003 00000008 00000003 00000005"));
    pair.client.close();
    sent.extend(frames(&mut pair.client));
    // `one` is still open to the server's bytes.
    expected.push(hex("80030003 00000008 00000001 00000005"));
    expected.push(hex("80030007 00000008 00000000 00000000"));
    let sent: Vec<_> = sent.into_iter().map(|frame| wire(&[frame])).collect();
    assert_eq!(sent, expected);
}

#[test]
fn pings_are_written_as_go_writes_them() {
    let config = Config {
        ping_period: Some(Duration::from_secs(5)),
        ..Config::default()
    };
    let mut pair = Pair::with(config.clone(), config);
    pair.pass(Duration::from_secs(5));
    let sent = [&mut pair.client, &mut pair.server].map(|side| wire(&frames(side)));
    assert_eq!(
        sent,
        [
            hex("80030006 00000004 00000001"),
            hex("80030006 00000004 00000002")
        ]
    );
}

#[test]
fn reused_id_is_answered_as_go_answers_it() {
    let now = Instant::now();
    let mut server = Connection::server(Config::default(), now);
    let mut zlib = headers::Writer::deflated();
    let one = StreamId::new(1);
    let twice = [(); 2].map(|()| Output::syn_stream(one, false, &zlib.block(&[])));
    server.handle_input(&mut wire(&twice), now).unwrap();
    assert_eq!(events(&mut server).len(), 1);
    assert_eq!(
        wire(&frames(&mut server)),
        hex("80030003 00000008 00000001 00000001")
    );
}
