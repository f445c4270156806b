//! Frames and header blocks, well-formed and not.

use flate2::{Compress, Compression, FlushCompress};

use super::*;
use crate::spdy::frame::{Control, Decoder, Item};
use crate::spdy::headers::{DICTIONARY, Writer};

const HEAD: usize = 8;

/// A header block that a well-behaved peer would never write.
fn deflate(plain: &[u8], dictionary: &[u8], flush: FlushCompress) -> Vec<u8> {
    let mut zlib = Compress::new(Compression::fast(), true);
    zlib.set_dictionary(dictionary).unwrap();
    let mut block = Vec::with_capacity(plain.len() + 128);
    zlib.compress_vec(plain, &mut block, flush).unwrap();
    assert_eq!(zlib.total_in(), plain.len() as u64);
    block
}

/// A well-formed block: count, then length and text in turn.
fn plain(count: u32, texts: &[&[u8]]) -> Vec<u8> {
    let mut plain = count.to_be_bytes().to_vec();
    for text in texts {
        plain.extend((text.len() as u32).to_be_bytes());
        plain.extend_from_slice(text);
    }
    plain
}

/// What the client says to a SYN_REPLY with this block.
fn reply_with(block: &[u8]) -> Result<(), Error> {
    let mut pair = Pair::new();
    let id = pair.open(&[]);
    let result = pair.say(&[Output::syn_reply(id, false, block)]);
    let lost = result.clone().err().map(Lost::Protocol);
    assert_eq!(pair.client.lost(), lost.as_ref());
    result
}

fn reply_with_plain(plain: &[u8]) -> Result<(), Error> {
    reply_with(&deflate(plain, &DICTIONARY, FlushCompress::Sync))
}

/// What a client with a stream 1 says to these bytes.
fn fed(text: &str) -> Result<(), Error> {
    let mut pair = Pair::new();
    pair.open(&[]);
    pair.client.handle_input(&mut hex(text), pair.now)
}

#[test]
fn every_header_block_ends_in_a_sync_flush_of_one_zlib_stream() {
    for mut writer in [Writer::stored(), Writer::deflated()] {
        let blocks: Vec<_> = (0..5)
            .map(|request| writer.block(&[("requestid", &request.to_string()), ("port", "80")]))
            .collect();
        for block in &blocks {
            assert!(block.ends_with(&[0, 0, 0xff, 0xff]), "{block:02x?}");
        }
        // The dictionary's id stands in the first block only.
        let id = headers::DICTIONARY_ID.to_be_bytes();
        let heads: Vec<_> = blocks.iter().map(|b| b.get(2..6) == Some(&id)).collect();
        assert_eq!(heads, [true, false, false, false, false]);
    }
}

#[test]
fn stored_blocks_are_those_of_zlib_at_level_0() {
    let mut zlib = Compress::new(Compression::none(), true);
    zlib.set_dictionary(&DICTIONARY).unwrap();
    let mut writer = Writer::stored();
    for value in ["", "80", &"x".repeat(5000)] {
        let mut expected = Vec::with_capacity(8192);
        let plain = plain(1, &[b"port", value.as_bytes()]);
        zlib.compress_vec(&plain, &mut expected, FlushCompress::Sync)
            .unwrap();
        assert_eq!(writer.block(&[("port", value)]), expected);
    }
}

#[test]
fn headers_of_more_than_a_stored_block_take_several() {
    let value = "x".repeat(60_000);
    let headers = [("a", &*value), ("b", &*value)];
    let mut inflater = headers::Inflater::default();
    // Past what is taken in, but for the two it was cut into.
    let block = Writer::stored().block(&headers);
    assert_eq!(block.len(), 120_022 + 6 + 2 * 5 + 5);
    let error = Err(Error::HeaderLimit("64 KiB"));
    assert_eq!(inflater.block(&block.into()), error);
    let mut whole = Vec::with_capacity(1 << 17);
    let mut zlib = flate2::Decompress::new(false);
    let body = &Writer::stored().block(&headers)[6..];
    zlib.decompress_vec(body, &mut whole, flate2::FlushDecompress::Sync)
        .unwrap();
    assert_eq!(whole.len(), 120_022);
}

#[test]
fn header_names_are_sent_in_lower_case_and_values_as_they_are() {
    let mut pair = Pair::new();
    pair.open(&[("streamType", "Data"), ("requestID", "0")]);
    pair.drive();
    let Some(Event::Opened { headers, .. }) = pair.server.poll_event() else {
        panic!("the stream is not opened");
    };
    assert!(
        headers
            .iter()
            .eq([("streamtype", "Data"), ("requestid", "0")])
    );
}

#[test]
fn names_in_upper_case_and_empty_names_fail_the_connection() {
    for name in ["Port", ""] {
        let block = plain(1, &[name.as_bytes(), b"80"]);
        assert!(matches!(reply_with_plain(&block), Err(Error::Headers(_))));
    }
}

#[test]
fn blocks_of_unknown_and_closed_streams_keep_the_context() {
    let mut pair = Pair::new();
    let (gone, open) = (pair.open(&[]), pair.open(&[]));
    pair.client.release(gone);
    let mut zlib = Writer::deflated();
    let mut block = |value| zlib.block(&[("x-note", value)]);
    let unknown = StreamId::new(77);
    let script = [
        Output::syn_reply(unknown, false, &block("a reply to nobody")),
        Output::syn_reply(gone, false, &block("a reply too late")),
        headers_frame(open, &block("headers before the reply")),
        headers_frame(unknown, &block("headers for nobody")),
        Output::syn_reply(open, false, &block("a reply that counts")),
    ];
    pair.say(&script).unwrap();
    let Some(Event::Replied { id, headers }) = pair.client.poll_event() else {
        panic!("the reply is lost");
    };
    assert_eq!(
        (id, headers.get("x-note")),
        (open, Some("a reply that counts"))
    );
    assert_eq!(pair.client.poll_event(), None);
}

/// A HEADERS frame: a SYN_REPLY of another type.
fn headers_frame(id: StreamId, block: &[u8]) -> Output {
    let mut frame = Output::syn_reply(id, false, block);
    frame.head[3] = 8;
    frame
}

#[test]
fn frames_are_found_in_single_bytes_and_in_one_read() {
    for chop in [1, 2, 3, 7, usize::MAX] {
        let mut pair = Pair {
            chop,
            ..Pair::new()
        };
        let ids = [(); 3].map(|()| pair.accepted());
        for id in ids {
            write(&mut pair.client, id, &[id.get() as u8; 5000]);
            pair.client.finish(id);
        }
        pair.drive();
        for id in ids {
            let expected = (vec![id.get() as u8; 5000], Ok(()));
            assert_eq!(read_all(&mut pair.server, id), expected, "chop {chop}");
        }
    }
}

#[test]
fn zip_bomb_fails_the_connection() {
    let bomb = plain(1, &[b"x", &vec![0; 60 << 20]]);
    let block = deflate(&bomb, &DICTIONARY, FlushCompress::Sync);
    // As many zeros as a frame that is taken in can carry.
    let bomb = &block[..block.len().min(60 * 1024)];
    let limit = Err(Error::HeaderLimit("64 KiB"));
    assert_eq!(reply_with(bomb), limit);
}

#[test]
fn too_many_headers_fail_the_connection() {
    let headers = |count: u32| plain(count, &vec![&b"n"[..]; 2 * count as usize]);
    assert_eq!(reply_with_plain(&headers(100)), Ok(()));
    let limit = Err(Error::HeaderLimit("100 headers"));
    assert_eq!(reply_with_plain(&headers(101)), limit);
    assert_eq!(reply_with_plain(&plain(1_000_000, &[])), limit);
    assert_eq!(reply_with_plain(&plain(u32::MAX, &[])), limit);
}

#[test]
fn name_of_more_than_a_mebibyte_fails_the_connection() {
    let block = plain(1, &[&vec![b'n'; (1 << 20) + 1], b""]);
    let limit = Err(Error::HeaderLimit("64 KiB"));
    assert_eq!(reply_with_plain(&block), limit);
    // A length alone makes nobody wait for bytes, nor make room for them.
    let mut claim = plain(1, &[]);
    claim.extend(u32::MAX.to_be_bytes());
    assert!(matches!(reply_with_plain(&claim), Err(Error::Headers(_))));
}

#[test]
fn corrupt_zlib_fails_the_connection() {
    assert!(matches!(
        reply_with(&hex("78f9e3c6a7c2ff00ff00ff")),
        Err(Error::Compression(_))
    ));
    assert!(matches!(reply_with(b"no zlib"), Err(Error::Compression(_))));
}

#[test]
fn block_that_wants_another_dictionary_fails_the_connection() {
    let block = deflate(&plain(0, &[]), b"SPDY/2's", FlushCompress::Sync);
    let error = Err(Error::Compression("it wants another dictionary"));
    assert_eq!(reply_with(&block), error);
}

#[test]
fn truncated_block_fails_the_connection() {
    let whole = plain(1, &[b"port", b"8080"]);
    for end in 0..whole.len() {
        assert!(matches!(
            reply_with_plain(&whole[..end]),
            Err(Error::Headers(_))
        ));
    }
    let block = deflate(&whole, &DICTIONARY, FlushCompress::Sync);
    for end in 0..block.len() - 5 {
        assert!(reply_with(&block[..end]).is_err(), "cut at {end}");
    }
}

#[test]
fn bytes_after_the_last_header_fail_the_connection() {
    let mut block = plain(1, &[b"port", b"8080"]);
    block.push(0);
    let error = Err(Error::Headers("bytes after the last header"));
    assert_eq!(reply_with_plain(&block), error);
    let mut ended = deflate(&plain(0, &[]), &DICTIONARY, FlushCompress::Finish);
    assert_eq!(reply_with(&ended), Ok(()));
    ended.push(0);
    assert!(matches!(reply_with(&ended), Err(Error::Compression(_))));
}

#[test]
fn fresh_zlib_context_per_block_fails_at_the_second() {
    let mut pair = Pair::new();
    let ids = [pair.open(&[]), pair.open(&[])];
    let [first, second] =
        ids.map(|id| Output::syn_reply(id, false, &Writer::deflated().block(&[("a", "b")])));
    assert_eq!(pair.say(&[first]), Ok(()));
    assert!(matches!(pair.say(&[second]), Err(Error::Compression(_))));
}

#[test]
fn claim_of_16_mib_of_data_allocates_nothing_and_blocks_nobody() {
    let mut pair = Pair::new();
    let id = pair.accepted();
    let before = weight(&pair.client);
    let mut claim = hex("00000001 00ffffff");
    pair.client.handle_input(&mut claim, pair.now).unwrap();
    assert!(weight(&pair.client) < before + 100);
    assert_eq!(pair.client.read(id), Err(ReadError::Blocked));
    let other = pair.open(&[]);
    write(&mut pair.client, other, b"still at work");
    assert_eq!(frames(&mut pair.client).len(), 2);
}

#[test]
fn claim_of_64_kib_of_headers_allocates_nothing() {
    let mut pair = Pair::new();
    let before = weight(&pair.client);
    let mut claim = hex("80030002 00010000 00000001");
    pair.client.handle_input(&mut claim, pair.now).unwrap();
    assert!(weight(&pair.client) < before + 200);
    let over = Err(Error::Length {
        kind: "SYN_REPLY",
        length: 0x1_0001,
    });
    assert_eq!(fed("80030002 00010001"), over);
}

#[test]
fn payloads_pass_without_a_copy() {
    let mut pair = Pair::new();
    let id = pair.accepted();
    let body = Bytes::from(vec![7; 30_000]);
    let mut rest = body.clone();
    pair.client.write(id, &mut rest).unwrap();
    let [frame] = &frames(&mut pair.client)[..] else {
        panic!("one frame");
    };
    assert_eq!(frame.body.as_ptr(), body.as_ptr());

    let input = wire(&[Output::data(id, false, body)]);
    pair.client
        .handle_input(&mut input.clone(), pair.now)
        .unwrap();
    let read = pair.client.read(id).unwrap().unwrap();
    assert_eq!(read.as_ptr(), input[HEAD..].as_ptr());
}

#[test]
fn unknown_control_types_are_skipped_by_their_length() {
    for kind in ["0005", "000a", "0063", "ffff"] {
        for length in [0, 1, 70_000] {
            let mut pair = Pair::new();
            let id = pair.accepted();
            let head = hex(&format!("8003{kind}ff{length:06x}"));
            pair.to_client.extend_from_slice(&head);
            pair.to_client.extend(vec![0xff; length]);
            let after = wire(&[data(id, b"after", true)]);
            pair.to_client.extend_from_slice(&after);
            pair.chop = 1000;
            pair.drive();
            assert_eq!(read_all(&mut pair.client, id), (b"after".to_vec(), Ok(())));
            assert_eq!(frames(&mut pair.client), []);
        }
    }
}

#[test]
fn settings_and_windows_mean_nothing() {
    let mut pair = Pair::new();
    let id = pair.accepted();
    // An initial window of 0, and windows of 0 for the connection and the stream.
    let mut input = hex("80030004 0000000c 00000001 00000007 00000000
         80030009 00000008 00000000 00000000 80030009 00000008 00000001 00000000");
    pair.client.handle_input(&mut input, pair.now).unwrap();
    write(&mut pair.client, id, b"unlimited");
    assert_eq!(frames(&mut pair.client), [data(id, b"unlimited", false)]);
    assert_eq!(pair.client.poll_event(), None);
}

#[test]
fn versions_2_and_3_are_read_and_others_fail() {
    for version in ["8003", "8002"] {
        assert_eq!(fed(&format!("{version}0006 00000004 00000002")), Ok(()));
    }
    assert_eq!(fed("80010006 00000004 00000002"), Err(Error::Version(1)));
    assert_eq!(
        fed("ffff0006 00000004 00000002"),
        Err(Error::Version(0x7fff))
    );
}

#[test]
fn stream_ids_have_31_bits() {
    let mut pair = Pair::new();
    let id = pair.accepted();
    let mut input = hex("80030003 00000008 80000001 00000005");
    pair.client.handle_input(&mut input, pair.now).unwrap();
    let reset = Err(ReadError::Reset(Status::CANCEL));
    assert_eq!(pair.client.read(id), reset);
}

#[test]
fn stream_zero_fails_the_connection() {
    for (frame, kind) in [
        ("00000000 00000001 00", "DATA"),
        ("00000000 01000000", "DATA"),
        ("80030001 0000000a 00000000 00000000 0000", "SYN_STREAM"),
        ("80030002 00000004 80000000", "SYN_REPLY"),
        ("80030003 00000008 00000000 00000005", "RST_STREAM"),
        ("80030008 00000004 00000000", "HEADERS"),
    ] {
        assert_eq!(fed(frame), Err(Error::StreamZero(kind)), "{frame}");
    }
    assert_eq!(fed("80030006 00000004 00000000"), Err(Error::PingZero));
}

#[test]
fn lengths_that_a_type_does_not_have_fail_the_connection() {
    for (kind, wrong) in [
        (1, 9),
        (2, 3),
        (3, 7),
        (3, 9),
        (6, 3),
        (6, 5),
        (7, 4),
        (8, 0),
        (9, 9),
    ] {
        let result = fed(&format!("8003{kind:04x} 00{wrong:06x}"));
        let Err(Error::Length { length, .. }) = result else {
            panic!("type {kind}, {wrong} bytes: {result:?}");
        };
        assert_eq!(length, wrong);
    }
}

#[test]
fn data_frames_carry_at_most_32_kib() {
    let mut pair = Pair::new();
    let id = pair.accepted();
    let body = Bytes::from(vec![1; 2 * MAX_DATA]);
    assert_eq!(pair.client.write(id, &mut body.clone()), Ok(body.len()));
    let lengths: Vec<_> = frames(&mut pair.client).iter().map(Output::len).collect();
    assert_eq!(lengths, [HEAD + MAX_DATA; 2]);
    const { assert!(HEAD + MAX_DATA <= 32 * 1024) };
}

#[test]
fn fin_of_a_data_frame_comes_with_its_last_slice() {
    let mut decoder = Decoder::new();
    let mut input = wire(&[data(StreamId::new(1), b"abc", true)]);
    let mut seen = Vec::new();
    while !input.is_empty() {
        if let Some(Item::Data { chunk, fin, .. }) = decoder.decode(&mut input, 1).unwrap() {
            seen.push((chunk[0], fin));
        }
    }
    assert_eq!(seen, [(b'a', false), (b'b', false), (b'c', true)]);
}

#[test]
fn syn_stream_carries_highest_priority_and_no_association() {
    let mut decoder = Decoder::new();
    let frame = Output::syn_stream(StreamId::new(5), true, b"block");
    assert_eq!(frame.body[4..10], [0; 6]);
    let mut input = wire(&[frame]);
    assert_eq!(decoder.decode(&mut input, 0), Ok(None), "the head alone");
    let expected = Control::SynStream {
        id: StreamId::new(5),
        fin: true,
        block: Bytes::from_static(b"block"),
    };
    assert_eq!(
        decoder.decode(&mut input, 0),
        Ok(Some(Item::Control(expected)))
    );
}
