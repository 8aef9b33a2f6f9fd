//! Generates arbitrary events.

use std::net::{IpAddr, SocketAddr};

use proptest::{option, prelude::*, sample::select};

use super::*;
use crate::event::{
    Advice, Ancestor, Answer, Client, Container, HttpRequest, Judgement, Login, Orchestrator, Package, Process,
    Program, Rehearsal, Reply, Thread,
};

fn any_word<T: Vocabulary + std::fmt::Debug>() -> impl Strategy<Value = T> {
    select(T::ALL)
}

pub(super) fn any_text() -> impl Strategy<Value = String> {
    prop::collection::vec(any::<char>(), 0..12).prop_map(String::from_iter)
}

/// Some of the times cannot be written.
pub(super) fn any_time() -> impl Strategy<Value = SystemTime> {
    let before = (1..1_000_u64).prop_map(|secs| SystemTime::UNIX_EPOCH - Duration::from_secs(secs));
    let after = (0..1_u64 << 38, 0..1_000_000_000_u32)
        .prop_map(|(secs, nanos)| SystemTime::UNIX_EPOCH + Duration::new(secs, nanos));
    prop_oneof![1 => before, 9 => after]
}

fn maybe_text() -> impl Strategy<Value = Option<String>> {
    option::of(any_text())
}

fn args() -> impl Strategy<Value = Vec<String>> {
    prop::collection::vec(any_text(), 0..4)
}

fn user() -> impl Strategy<Value = User> {
    (option::of(any::<u32>()), maybe_text()).prop_map(|(id, name)| User { id, name })
}

fn address() -> impl Strategy<Value = SocketAddr> {
    (any::<IpAddr>(), any::<u16>()).prop_map(SocketAddr::from)
}

fn ancestor() -> impl Strategy<Value = Ancestor> {
    let fields = (any::<u32>(), any_text(), maybe_text(), args(), option::of(any::<u32>()));
    fields.prop_map(|(pid, name, executable, args, user_id)| Ancestor {
        pid,
        name,
        executable,
        args,
        user_id,
    })
}

fn container() -> impl Strategy<Value = Container> {
    let fields = (any_text(), option::of(any_word()), maybe_text(), maybe_text());
    fields.prop_map(|(id, runtime, name, image)| Container {
        id,
        runtime,
        name,
        image,
    })
}

fn orchestrator() -> impl Strategy<Value = Orchestrator> {
    let fields = (
        any_word(),
        any_text(),
        option::of(any_word()),
        maybe_text(),
        maybe_text(),
        maybe_text(),
    );
    fields.prop_map(|(platform, id, qos, name, namespace, cluster)| Orchestrator {
        platform,
        id,
        qos,
        name,
        namespace,
        cluster,
    })
}

fn process() -> impl Strategy<Value = Process> {
    let program = (
        any::<u32>(),
        any_text(),
        any_text(),
        any_word(),
        maybe_text(),
        any::<bool>(),
        args(),
        option::of(any_time()),
        maybe_text(),
        prop::collection::vec(ancestor(), 0..4),
    );
    let who = (
        user(),
        option::of(any::<u32>()),
        option::of((user(), option::of(any::<u32>())).prop_map(|(user, session)| Login { user, session })),
    );
    let place = (
        maybe_text(),
        maybe_text(),
        maybe_text(),
        maybe_text(),
        maybe_text(),
        option::of(container()),
        option::of(orchestrator()),
        option::of(container()),
    );
    (program, who, place).prop_map(|(program, (user, group_id, login), place)| {
        let (pid, name, text, source, executable, executable_claimed, args, start, working_directory, ancestors) =
            program;
        let (unit, slice, user_unit, user_slice, session, container, orchestrator, user_container) = place;
        let is_placed = container.is_some() || unit.is_some() || user_unit.is_some();
        let program = format!("/{text}");
        Process {
            pid,
            name,
            caller: if is_placed {
                format!("{program} (app.service)")
            } else {
                program.clone()
            },
            program,
            source,
            executable,
            executable_claimed,
            args,
            start,
            working_directory,
            ancestors,
            user,
            group_id,
            login,
            unit,
            slice,
            user_unit,
            user_slice,
            session,
            container,
            orchestrator,
            user_container,
            ..Process::default()
        }
    })
}

fn http() -> impl Strategy<Value = HttpRequest> {
    let fields = (
        maybe_text(),
        option::of((any_text(), maybe_text())),
        option::of(any_word()),
        maybe_text(),
    );
    fields.prop_map(|(method, target, version, user_agent)| {
        let (target, path) = target.unzip();
        HttpRequest {
            method,
            target,
            path: path.flatten(),
            version,
            user_agent,
        }
    })
}

fn answer() -> impl Strategy<Value = Answer> {
    let reply = (any::<u16>(), any::<u32>(), any::<Option<u8>>()).prop_map(|(status, millis, hop_limit)| {
        Answer::Answered(Reply {
            status,
            duration: Duration::from_millis(millis.into()),
            hop_limit,
        })
    });
    prop_oneof![reply, Just(Answer::None), Just(Answer::Unseen)]
}

fn judgement() -> impl Strategy<Value = Judgement> {
    let client = (any_word(), maybe_text(), maybe_text()).prop_map(|(source, version, path)| Client {
        name: "botocore",
        version,
        source,
        path,
    });
    let package = (any_text(), maybe_text()).prop_map(|(name, version)| Package { name, version });
    let states = prop::collection::vec(any_word(), 0..3);
    let program =
        (any_text(), option::of(package), states).prop_map(|(path, package, states)| Program { path, package, states });
    let advice = (any_text(), any_text()).prop_map(|(id, text)| Advice {
        id: id.into(),
        text: text.into(),
    });
    let fields = (
        option::of(any_word()),
        any::<Option<u16>>(),
        any::<Option<u8>>(),
        option::of(client),
        option::of(program.prop_map(Arc::new)),
        option::of(advice),
        prop::collection::vec(any_word(), 0..3),
    );
    fields.prop_map(
        |(cause, token_status, token_hop_limit, client, program, remedy, risks)| Judgement {
            cause,
            token_status,
            token_hop_limit,
            client,
            program,
            remedy,
            risks,
        },
    )
}

pub(super) fn any_event() -> impl Strategy<Value = Event> {
    let judged = (
        any_time(),
        any_word(),
        option::of(any_word()),
        any_word(),
        any_word(),
        option::of(any_word()),
        any_word(),
    );
    let flags = any::<[bool; 6]>();
    let sent = (
        http().boxed(),
        answer().boxed(),
        judgement().boxed(),
        address(),
        address(),
        option::of(address()),
    );
    let thread = (any::<u32>(), any_text()).prop_map(|(id, name)| Thread { id, name });
    let sender = (option::of(process()).boxed(), option::of(thread).boxed());
    (judged, flags, sent, sender).prop_map(|(judged, flags, sent, (process, thread))| {
        let (time, verdict, reason, path_class, tap, owner, net_ns) = judged;
        let [local, relay, forwarded, malformed, sender_pages, kept_back] = flags;
        let rehearsal = if kept_back {
            Rehearsal::KeptBack
        } else {
            Rehearsal::Nothing
        };
        let (http, answer, judgement, source, destination, packet_destination) = sent;
        Event {
            time,
            verdict,
            reason,
            path_class,
            tap,
            owner,
            net_ns,
            local,
            relay,
            forwarded,
            malformed,
            sender_pages,
            rehearsal,
            http,
            answer,
            judgement,
            source,
            destination,
            packet_destination,
            process: process.map(Arc::new),
            thread,
        }
    })
}
