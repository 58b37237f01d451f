use super::*;

fn team(threads: usize) -> Team {
    Team::new(threads, Isa::Scalar).unwrap()
}

#[test]
fn every_thread_runs_every_job_once() {
    for threads in [1, 2, 3, 7] {
        let team = team(threads);
        let mut counts = vec![0u32; threads];
        let jobs = 300;
        let shared = SharedMut::new(&mut counts);
        team.scope(|| {
            for _ in 0..jobs {
                // SAFETY: each thread has its own element.
                team.run(|w| unsafe { shared.slice(w.index..w.index + 1) }[0] += 1);
            }
        });
        // Outside a scope a job opens its own.
        // SAFETY: as above.
        team.run(|w| unsafe { shared.slice(w.index..w.index + 1) }[0] += 1);
        assert_eq!(counts, vec![jobs + 1; threads]);
    }
}

#[test]
fn sleeping_followers_wake() {
    let team = team(3);
    let sum = AtomicUsize::new(0);
    team.scope(|| {
        for _ in 0..3 {
            std::thread::sleep(YIELD * 4);
            team.run(|w| {
                sum.fetch_add(w.index, Ordering::Relaxed);
            });
        }
    });
    assert_eq!(sum.into_inner(), 9);
}

#[test]
fn shares_cover_all_units_once() {
    let team = team(3);
    for units in [0, 1, 2, 3, 100] {
        let sum = AtomicUsize::new(0);
        team.run(|w| {
            sum.fetch_add(w.share(units).map(|u| u + 1).sum::<usize>(), Ordering::Relaxed);
        });
        assert_eq!(sum.into_inner(), units * (units + 1) / 2);
    }
}

#[test]
fn each_unit_is_claimed_once_and_a_slow_thread_gets_less() {
    for (units, least) in [(0, 1), (1, 1), (7, 4), (1000, 1), (1000, 4)] {
        let team = team(3);
        let claims: Vec<AtomicUsize> = (0..units).map(|_| AtomicUsize::new(0)).collect();
        let [by_slow, by_others] = [0; 2].map(AtomicUsize::new);
        team.share(units, least, |worker| {
            while let Some(part) = worker.place.take() {
                assert!(!part.is_empty());
                let by = if worker.index == 1 { &by_slow } else { &by_others };
                by.fetch_add(part.len(), Ordering::Relaxed);
                // So slow that the others are through with all the rest.
                while worker.index == 1 && by_others.load(Ordering::Relaxed) + part.len() < units {
                    std::thread::yield_now();
                }
                part.for_each(|unit| {
                    claims[unit].fetch_add(1, Ordering::Relaxed);
                });
            }
        });
        assert!(claims.iter().all(|count| count.load(Ordering::Relaxed) == 1), "{units} units");
        // Of its third it has three quarters at once, and then nothing is left.
        assert!(by_slow.into_inner() <= units / 4 + 1, "{units} units");
    }
}

#[test]
fn panics_of_any_thread_reach_the_caller_and_the_team_lives_on() {
    let team = team(3);
    for bad in 0..3 {
        let caught =
            catch_unwind(AssertUnwindSafe(|| team.run(|w| assert_ne!(w.index, bad, "thread fails"))));
        let payload = caught.expect_err("the panic is passed on");
        let text = payload.downcast_ref::<String>().expect("a message");
        assert!(text.contains("thread fails"), "{text}");
        let sum = AtomicUsize::new(0);
        team.run(|w| {
            sum.fetch_add(w.index, Ordering::Relaxed);
        });
        assert_eq!(sum.into_inner(), 3);
    }
}

#[test]
fn two_sessions_take_turns() {
    let team = team(2);
    let inside = AtomicUsize::new(0);
    std::thread::scope(|s| {
        for _ in 0..3 {
            s.spawn(|| {
                for _ in 0..20 {
                    team.scope(|| {
                        assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                        team.run(|_| {});
                        team.scope(|| team.run(|_| {}));
                        inside.fetch_sub(1, Ordering::SeqCst);
                    });
                }
            });
        }
    });
}

#[test]
fn an_absent_instruction_set_is_an_error() {
    for &isa in Isa::ALL.iter().filter(|isa| !isa.is_available()) {
        assert!(matches!(Team::new(1, isa), Err(TeamError::Unavailable(_))));
    }
}

#[test]
fn for_each_calls_each_once() {
    for (threads, count) in [(1, 5), (3, 0), (3, 1), (3, 100)] {
        let calls: Vec<AtomicUsize> = (0..count).map(|_| AtomicUsize::new(0)).collect();
        team(threads).for_each(count, |i| {
            calls[i].fetch_add(1, Ordering::Relaxed);
        });
        assert!(calls.iter().all(|calls| calls.load(Ordering::Relaxed) == 1), "{count} on {threads} threads");
    }
}
