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
