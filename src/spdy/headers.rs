//! Name/value blocks: one zlib stream per direction, with SPDY's dictionary.
//!
//! Each block ends in a sync flush, whose `00 00 FF FF` stays on the wire. Every other ending, and a fresh zlib
//! context per block, passes a test with one stream and fails at the second.

use bytes::{Buf, BufMut, Bytes};
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use super::Error;

/// Inflated bytes of one block, at most. Kubernetes' own blocks have less than 100; a zip bomb stops here.
const MAX_BLOCK: usize = 64 * 1024;
/// Headers in one block, at most. Kubernetes sends three.
const MAX_HEADERS: u32 = 100;
/// Adler-32 of the dictionary, by which zlib names it.
pub(super) const DICTIONARY_ID: u32 = 0xe3c6_a7c2;

/// The headers of a SYN_STREAM, SYN_REPLY or HEADERS frame, in the order of the wire. Names are lower-case.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Headers(Vec<(String, String)>);

impl Headers {
    /// The first value of `name`.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.iter().find(|(n, _)| *n == name).map(|(_, v)| v)
    }

    /// All names and values.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(n, v)| (n.as_str(), v.as_str()))
    }

    fn parse(mut block: &[u8]) -> Result<Self, Error> {
        let count = word(&mut block)?;
        if count > MAX_HEADERS {
            return Err(Error::HeaderLimit("100 headers"));
        }
        let mut headers = Vec::new();
        for _ in 0..count {
            let name = text(&mut block)?;
            // spdystream fails the connection for it too.
            if name.is_empty() || name.bytes().any(|b| b.is_ascii_uppercase()) {
                return Err(Error::Headers("a name is empty or not in lower case"));
            }
            headers.push((name, text(&mut block)?));
        }
        if block.is_empty() {
            Ok(Self(headers))
        } else {
            Err(Error::Headers("bytes after the last header"))
        }
    }
}

fn word(block: &mut &[u8]) -> Result<u32, Error> {
    block
        .try_get_u32()
        .map_err(|_| Error::Headers("it ends early"))
}

fn text(block: &mut &[u8]) -> Result<String, Error> {
    let length = word(block)? as usize;
    let (text, rest) = block
        .split_at_checked(length)
        .ok_or(Error::Headers("it ends early"))?;
    *block = rest;
    Ok(String::from_utf8_lossy(text).into_owned())
}

/// Writes the header blocks of one direction.
#[derive(Debug)]
pub(super) enum Writer {
    /// A client's: a zlib stream of stored blocks. It costs no state at all, where deflate's tables are 268 KiB for each
    /// tunnel, and some 60 bytes on the wire for each stream. zlib's own level 0 writes the same.
    Stored {
        /// The stream's head is out.
        begun: bool,
    },
    /// A server's, as Go's spdystream writes them.
    Deflated(Box<Compress>),
}

/// A zlib stream's head: deflate with the largest window, made by the fastest algorithm, with a dictionary, whose id
/// follows.
const STORED_HEAD: [u8; 2] = [0x78, 0x3f];
/// An empty stored block: what a sync flush ends in. Go's inflater hands nothing out before it.
const SYNC: [u8; 5] = [0, 0, 0, 0xff, 0xff];

impl Writer {
    pub(super) fn stored() -> Self {
        Self::Stored { begun: false }
    }

    pub(super) fn deflated() -> Self {
        let mut zlib = Compress::new(Compression::best(), true);
        zlib.set_dictionary(&DICTIONARY)
            .expect("a fresh zlib stream takes a dictionary");
        Self::Deflated(Box::new(zlib))
    }

    /// One block, in its place on the wire: what is written must be sent, and in this order.
    pub(super) fn block(&mut self, headers: &[(&str, &str)]) -> Vec<u8> {
        let mut plain = Vec::new();
        plain.put_u32(headers.len() as u32);
        for (name, value) in headers {
            plain.put_u32(name.len() as u32);
            plain.extend(name.bytes().map(|b| b.to_ascii_lowercase()));
            plain.put_u32(value.len() as u32);
            plain.extend_from_slice(value.as_bytes());
        }
        match self {
            Self::Stored { begun } => store(&plain, !std::mem::replace(begun, true)),
            Self::Deflated(zlib) => deflate(&plain, zlib),
        }
    }
}

fn store(plain: &[u8], first: bool) -> Vec<u8> {
    let mut block = Vec::with_capacity(plain.len() + 16);
    if first {
        block.put_slice(&STORED_HEAD);
        block.put_u32(DICTIONARY_ID);
    }
    // Whole bytes only, so each begins where its three bits of type stand: all zero.
    for part in plain.chunks(usize::from(u16::MAX)) {
        let length = part.len() as u16;
        block.put_u8(0);
        block.put_u16_le(length);
        block.put_u16_le(!length);
        block.put_slice(part);
    }
    block.put_slice(&SYNC);
    block
}

fn deflate(plain: &[u8], zlib: &mut Compress) -> Vec<u8> {
    let mut block = Vec::with_capacity(plain.len() + 64);
    let mut rest = plain;
    loop {
        let before = zlib.total_in();
        zlib.compress_vec(rest, &mut block, FlushCompress::Sync)
            .expect("deflate fails only on a misused stream");
        rest.advance((zlib.total_in() - before) as usize);
        // Spare room left over means that zlib had no more to say, the flush included.
        if rest.is_empty() && block.len() < block.capacity() {
            return block;
        }
        block.reserve(256);
    }
}

/// Reads the header blocks of one direction.
#[derive(Debug, Default)]
pub(super) struct Inflater(Option<Box<Decompress>>);

impl Inflater {
    /// One block. After an error the context is lost, and with it the connection.
    pub(super) fn block(&mut self, block: &Bytes) -> Result<Headers, Error> {
        // 48 KiB, which a tunnel that stands ready does without.
        let zlib = self
            .0
            .get_or_insert_with(|| Box::new(Decompress::new(true)));
        let mut plain = Vec::with_capacity(512);
        let mut rest = &block[..];
        loop {
            let before = zlib.total_in();
            let result = zlib.decompress_vec(rest, &mut plain, FlushDecompress::Sync);
            rest.advance((zlib.total_in() - before) as usize);
            match result {
                Ok(Status::StreamEnd) if !rest.is_empty() => {
                    return Err(Error::Compression("it goes on after its end"));
                }
                Ok(Status::StreamEnd) => break,
                Ok(_) if plain.len() > MAX_BLOCK => return Err(Error::HeaderLimit("64 KiB")),
                Ok(_) if plain.len() < plain.capacity() && rest.is_empty() => break,
                Ok(Status::BufError) if plain.len() < plain.capacity() => {
                    return Err(Error::Compression("zlib makes no progress"));
                }
                Ok(_) => plain.reserve(4096),
                Err(error) => match error.needs_dictionary() {
                    Some(DICTIONARY_ID) => {
                        zlib.set_dictionary(&DICTIONARY)
                            .map_err(|_| Error::Compression("zlib refuses the dictionary"))?;
                    }
                    Some(_) => return Err(Error::Compression("it wants another dictionary")),
                    None => return Err(Error::Compression("it isn't valid zlib")),
                },
            }
        }
        Headers::parse(&plain)
    }
}

/// The dictionary of SPDY/3: words with their lengths, then text.
pub(super) static DICTIONARY: [u8; 1423] = dictionary();

#[rustfmt::skip]
const WORDS: [&str; 65] = [
    "options", "head", "post", "put", "delete", "trace", "accept", "accept-charset",
    "accept-encoding", "accept-language", "accept-ranges", "age", "allow", "authorization",
    "cache-control", "connection", "content-base", "content-encoding", "content-language",
    "content-length", "content-location", "content-md5", "content-range", "content-type", "date",
    "etag", "expect", "expires", "from", "host", "if-match", "if-modified-since", "if-none-match",
    "if-range", "if-unmodified-since", "last-modified", "location", "max-forwards", "pragma",
    "proxy-authenticate", "proxy-authorization", "range", "referer", "retry-after", "server", "te",
    "trailer", "transfer-encoding", "upgrade", "user-agent", "vary", "via", "warning",
    "www-authenticate", "method", "get", "status", "200 OK", "version", "HTTP/1.1", "url",
    "public", "set-cookie", "keep-alive", "origin",
];

const TEXT: &str = "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505\
    203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized\
    403 Forbidden404 Not Found500 Internal Server Error501 Not Implemented503 Service Unavailable\
    Jan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMT\
    chunked,text/html,image/png,image/jpg,image/gif,application/xml,application/xhtml+xml,text/plain,\
    text/javascript,publicprivatemax-age=gzip,deflate,sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0.";

#[allow(clippy::indexing_slicing, reason = "evaluated at compile time")]
const fn dictionary() -> [u8; 1423] {
    let mut out = [0; 1423];
    let mut at = 0;
    let mut i = 0;
    while i < WORDS.len() {
        let word = WORDS[i].as_bytes();
        out[at + 3] = word.len() as u8; // u32, big-endian; no word is longer than 19
        at += 4;
        let mut j = 0;
        while j < word.len() {
            out[at] = word[j];
            at += 1;
            j += 1;
        }
        i += 1;
    }
    let text = TEXT.as_bytes();
    let mut j = 0;
    while j < text.len() {
        out[at] = text[j];
        at += 1;
        j += 1;
    }
    assert!(at == out.len(), "849 bytes of words and 574 of text");
    out
}
