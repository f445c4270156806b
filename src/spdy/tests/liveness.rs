//! Pings both ways, and when a silent peer counts as dead.

use super::*;

const PERIOD: Duration = Duration::from_secs(10);
const SILENCE: Duration = Duration::from_secs(60);
const TICK: Duration = Duration::from_millis(1);

fn pinging() -> Pair {
    let config = Config {
        ping_period: Some(PERIOD),
        silence: SILENCE,
        receive_buffer: 100,
        ..Config::default()
    };
    Pair::with(config, Config::default())
}

/// The client alone, whose peer says nothing: sleeps from deadline to deadline for `time`, and returns its frames.
fn wait_in_silence(pair: &mut Pair, time: Duration) -> Vec<Output> {
    let end = pair.now + time;
    let mut sent = frames(&mut pair.client);
    while let Some(next) = pair.client.poll_timeout().filter(|next| *next <= end) {
        pair.now = next;
        pair.client.handle_timeout(next);
        sent.extend(frames(&mut pair.client));
    }
    pair.now = end;
    pair.client.handle_timeout(end);
    sent.extend(frames(&mut pair.client));
    sent
}

#[test]
fn pings_of_the_peer_are_echoed_unchanged() {
    let mut pair = Pair::new();
    for id in [2, 4, 0x7fff_fffe, 0xffff_fffe] {
        pair.say(&[Output::ping(id)]).unwrap();
        assert_eq!(frames(&mut pair.client), [Output::ping(id)]);
    }
    let mut odd = wire(&[Output::ping(7)]);
    pair.server.handle_input(&mut odd, pair.now).unwrap();
    assert_eq!(frames(&mut pair.server), [Output::ping(7)]);
}

#[test]
fn answers_that_nobody_asked_for_are_ignored() {
    let mut pair = Pair::new();
    let answers = [1, 3, 0x7fff_ffff].map(Output::ping);
    pair.say(&answers).unwrap();
    assert_eq!(frames(&mut pair.client), []);
    assert_eq!(events(&mut pair.client), []);
}

#[test]
fn pings_go_out_once_a_period_with_odd_ids() {
    let mut pair = pinging();
    for id in (1..100).step_by(2) {
        pair.pass(PERIOD - TICK);
        assert_eq!(frames(&mut pair.client), []);
        pair.pass(TICK);
        let sent = frames(&mut pair.client);
        assert_eq!(sent, [Output::ping(id)]);
        pair.say(&sent).unwrap(); // an answer is its echo
    }
}

#[test]
fn without_a_period_there_is_no_ping_and_no_deadline() {
    let mut pair = Pair::new();
    assert_eq!(pair.client.poll_timeout(), None);
    pair.pass(SILENCE * 1000);
    assert_eq!(frames(&mut pair.client), []);
    assert_eq!(pair.client.lost(), None);
}

#[test]
fn ping_ids_wrap_before_the_sign_bit() {
    let config = Config {
        ping_period: Some(PERIOD),
        ..Config::default()
    };
    let mut pair = Pair::with(config.clone(), config);
    pair.client.pings.next_id = 0x7fff_fffb;
    pair.server.pings.next_id = 0x7fff_fffa;
    let mut sent = [vec![], vec![]];
    for _ in 0..4 {
        pair.pass(PERIOD);
        for (side, sent) in [&mut pair.client, &mut pair.server]
            .into_iter()
            .zip(&mut sent)
        {
            for frame in frames(side) {
                sent.push(u32::from_be_bytes(frame.body[..].try_into().unwrap()));
                side.handle_input(&mut wire(&[frame]), pair.now).unwrap();
            }
        }
    }
    assert!(sent.iter().flatten().all(|id| (1..1 << 31).contains(id)));
    assert!(sent[0].iter().all(|id| id % 2 == 1), "{sent:?}");
    assert!(sent[1].iter().all(|id| id % 2 == 0), "{sent:?}");
    assert!(sent.iter().all(|ids| ids.len() == 4), "{sent:?}");
    assert!(sent[0].contains(&1) && sent[1].contains(&2), "{sent:?}");
}

#[test]
fn silent_peer_is_dead_after_the_limit() {
    let mut pair = pinging();
    let id = pair.accepted();
    wait_in_silence(&mut pair, PERIOD + SILENCE - TICK);
    assert_eq!(pair.client.lost(), None);
    wait_in_silence(&mut pair, TICK);
    assert_eq!(pair.client.lost(), Some(&Lost::Silent));
    assert_eq!(pair.client.read(id), Err(ReadError::Lost(Lost::Silent)));
    assert_eq!(pair.client.poll_timeout(), None);
}

#[test]
fn any_byte_is_a_sign_of_life() {
    let mut pair = pinging();
    let id = pair.accepted();
    // One byte of a frame that never ends.
    pair.say(&[Output::data(id, false, vec![0; 50].into())])
        .unwrap();
    let mut head = hex("00000001 00ffffff");
    pair.client.handle_input(&mut head, pair.now).unwrap();
    for _ in 0..20 {
        wait_in_silence(&mut pair, SILENCE - TICK);
        let mut byte = Bytes::from_static(b"x");
        pair.client.handle_input(&mut byte, pair.now).unwrap();
        assert_eq!(pair.client.lost(), None);
    }
}

#[test]
fn silence_counts_from_the_question() {
    // A timer that fires late, a suspended process: nobody was asked, so nobody owes an answer.
    let mut pair = pinging();
    pair.pass(SILENCE * 100);
    assert_eq!(pair.client.lost(), None);
    assert_eq!(frames(&mut pair.client), [Output::ping(1)]);
    wait_in_silence(&mut pair, SILENCE - TICK);
    assert_eq!(pair.client.lost(), None);
}

#[test]
fn peer_that_loses_one_ping_of_five_lives() {
    // spdystream deals PINGs out to five workers, of which one hangs while a container does not read.
    let mut pair = pinging();
    for round in 0..60 {
        for ping in wait_in_silence(&mut pair, PERIOD) {
            if round % 5 != 3 {
                pair.say(&[ping]).unwrap();
            }
        }
        assert_eq!(pair.client.lost(), None, "round {round}");
    }
}

#[test]
fn pings_that_are_never_answered_stay_few() {
    // A worker that hangs holds 50 frames, then the whole peer hangs: PINGs must not be what fills it.
    let mut pair = pinging();
    let id = pair.accepted();
    let mut pings = 0;
    for _ in 0..1000 {
        pings += wait_in_silence(&mut pair, PERIOD).len();
        pair.say(&[data(id, b"", false)]).unwrap();
    }
    assert!((6..40).contains(&pings), "{pings}");
    // Then silence proves nothing any more.
    wait_in_silence(&mut pair, SILENCE * 10);
    assert_eq!(pair.client.lost(), None);
}

#[test]
fn paused_connection_hears_nothing_and_lives() {
    let mut pair = pinging();
    let id = pair.accepted();
    wait_in_silence(&mut pair, PERIOD);
    let mut input = wire(&[Output::data(id, false, vec![0; 150].into())]);
    pair.client.handle_input(&mut input, pair.now).unwrap();
    assert!(pair.client.paused());
    wait_in_silence(&mut pair, SILENCE * 10);
    assert_eq!(pair.client.lost(), None);
    // The silence starts anew when the pause ends.
    pair.client.read(id).unwrap();
    assert!(!pair.client.paused());
    wait_in_silence(&mut pair, SILENCE - PERIOD);
    assert_eq!(pair.client.lost(), None);
    wait_in_silence(&mut pair, SILENCE);
    assert_eq!(pair.client.lost(), Some(&Lost::Silent));
}

#[test]
fn peer_that_takes_no_bytes_owes_no_answer() {
    let mut pair = pinging();
    wait_in_silence(&mut pair, PERIOD);
    pair.client.set_blocked(true, pair.now);
    let sent = wait_in_silence(&mut pair, SILENCE * 10);
    assert_eq!(sent, [], "no PING into a full pipe");
    assert_eq!(pair.client.lost(), None);
    pair.client.set_blocked(false, pair.now);
    wait_in_silence(&mut pair, SILENCE - TICK);
    assert_eq!(pair.client.lost(), None);
    wait_in_silence(&mut pair, TICK);
    assert_eq!(pair.client.lost(), Some(&Lost::Silent));
}

#[test]
fn silence_starts_anew_when_the_peer_takes_bytes_again() {
    let mut pair = pinging();
    wait_in_silence(&mut pair, PERIOD);
    pair.client.set_blocked(true, pair.now);
    pair.now += PERIOD - TICK; // no deadline falls in between
    pair.client.set_blocked(false, pair.now);
    wait_in_silence(&mut pair, SILENCE - TICK);
    assert_eq!(pair.client.lost(), None);
    wait_in_silence(&mut pair, TICK);
    assert_eq!(pair.client.lost(), Some(&Lost::Silent));
}

#[test]
fn answering_peer_lives_for_ever() {
    let mut pair = pinging();
    let id = pair.accepted();
    for _ in 0..10_000 {
        pair.pass(PERIOD);
        pair.drive();
    }
    assert_eq!(pair.client.read(id), Err(ReadError::Blocked));
}

#[test]
fn deadline_is_the_nearest_of_replies_and_pings() {
    let mut pair = pinging();
    let start = pair.now;
    assert_eq!(pair.client.poll_timeout(), Some(start + PERIOD));
    let id = pair.open(&[]);
    for round in 1..3 {
        pair.now = start + PERIOD * round;
        pair.client.handle_timeout(pair.now);
    }
    // The third ping and the reply fall due at once: one call serves both.
    let due = start + PERIOD * 3;
    assert_eq!(pair.client.poll_timeout(), Some(due));
    pair.client.handle_timeout(due);
    assert_eq!(pair.client.read(id), Err(ReadError::NoReply));
    assert!(pair.client.poll_timeout() > Some(due));
}
