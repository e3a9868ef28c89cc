//! The plan, played against a model of the kernel.

use super::*;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

/// What the kernel does with the steps, by its rules.
#[derive(Default)]
struct Kernel {
    sockets: Vec<Member>,
    program: Selection,
    muted: BTreeMap<u64, Option<u16>>,
}

fn number(member: Member) -> u64 {
    match member {
        Member::Anchor => 0,
        Member::Listener(listener) => listener.0,
        Member::Filler(filler) => 500_000 + u64::from(filler),
        Member::Foreign(inode) => 1_000_000 + u64::from(inode),
    }
}

impl Kernel {
    fn perform(&mut self, step: &Step) {
        match step {
            Step::Program(selection) => self.program = selection.clone(),
            Step::Mute(member, except) => drop(self.muted.insert(number(*member), *except)),
            Step::Unmute(listener) => drop(self.muted.remove(&listener.0)),
            Step::Listen(member) => self.sockets.push(*member),
            Step::Close(member) => self.leave(*member),
        }
    }

    fn leave(&mut self, member: Member) {
        let index = self.sockets.iter().position(|present| *present == member).expect("a member");
        self.sockets.swap_remove(index);
    }

    /// Our descriptor is closed, but a process that is on its way out still has the socket.
    fn linger(&mut self, listener: ListenerId, inode: u32) {
        let index = self.sockets.iter().position(|present| *present == Member::Listener(listener)).expect("a member");
        self.sockets[index] = Member::Foreign(inode);
        if let Some(except) = self.muted.remove(&listener.0) {
            self.muted.insert(number(Member::Foreign(inode)), except);
        }
    }

    /// Every member that chance may choose for a request from this port now.
    fn candidates(&self, port: u16) -> Vec<Member> {
        let indices = match self.program.route {
            Some((routed, index)) if routed == port => vec![index],
            _ => self.program.targets.iter().chain(self.program.share.iter().flat_map(|(_, theirs)| theirs)).copied().collect(),
        };
        let exact = !indices.is_empty() && indices.iter().all(|index| (*index as usize) < self.sockets.len());
        if exact { indices.into_iter().map(|index| self.sockets[index as usize]).collect() } else { self.sockets.clone() }
    }

    fn takes(&self, member: Member, port: u16) -> bool {
        self.muted.get(&number(member)).is_none_or(|except| *except == Some(port))
    }

    /// Those of the candidates that do not drop it.
    fn reach(&self, port: u16) -> BTreeSet<u64> {
        self.candidates(port).into_iter().filter(|member| self.takes(*member, port)).map(number).collect()
    }

    fn may_drop(&self, port: u16) -> bool {
        !self.candidates(port).into_iter().all(|member| self.takes(member, port))
    }
}

#[derive(Debug, Clone)]
enum Act {
    Join,
    Select(usize),
    SelectTwo(usize, usize),
    Share(u16, usize),
    ShareWith(usize),
    Route(usize),
    Unroute,
    Leave(usize),
    Linger(usize),
    JoinSelected,
    Deselect(usize),
    StrangerComes,
    StrangerGoes(usize),
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        3 => Just(Act::Join),
        3 => (0_usize..8).prop_map(Act::Select),
        1 => (0_usize..8, 0_usize..8).prop_map(|(one, two)| Act::SelectTwo(one, two)),
        2 => (1_u16..1000, 0_usize..8).prop_map(|(permille, one)| Act::Share(permille, one)),
        1 => (0_usize..8).prop_map(Act::ShareWith),
        2 => (0_usize..8).prop_map(Act::Route),
        1 => Just(Act::Unroute),
        3 => (0_usize..8).prop_map(Act::Leave),
        2 => (0_usize..8).prop_map(Act::Linger),
        2 => Just(Act::JoinSelected),
        1 => (0_usize..8).prop_map(Act::Deselect),
        1 => Just(Act::StrangerComes),
        1 => (0_usize..8).prop_map(Act::StrangerGoes),
    ]
}

fn fill(order: &mut Order, leavings: usize) -> Vec<Step> {
    std::iter::from_fn(|| order.filler(leavings)).flat_map(|(_, steps)| steps).collect()
}

const PROBE: u16 = 40_000;
const CLIENT: u16 = 50_000;

proptest! {
    /// After every single step, not only at the end of a plan: a client's request reaches a listener that was or is to be
    /// selected, or is dropped and repeated. Nobody else ever gets it.
    #[test]
    fn nobody_else_gets_a_connection(acts in proptest::collection::vec(act(), 1..40)) {
        let (mut order, mut kernel) = (Order::default(), Kernel::default());
        for step in order.found(ListenerId(1)) {
            kernel.perform(&step);
            prop_assert_eq!(kernel.reach(CLIENT), BTreeSet::from([1]));
            prop_assert!(!kernel.may_drop(CLIENT), "nobody has to repeat a request, from the first instant");
        }
        let mut next = 1;
        let mut strangers: Vec<u32> = Vec::new();
        for act in acts {
            let here: Vec<ListenerId> = order.members.iter().filter_map(|member| match member {
                Member::Listener(listener) => Some(*listener),
                Member::Anchor | Member::Filler(_) | Member::Foreign(_) => None,
            }).collect();
            let nth = |n: usize| here.get(n % here.len().max(1)).copied();
            let before: BTreeSet<u64> = order.selected.iter().map(|listener| listener.0).collect();
            let mut steps = match act {
                Act::Join => {
                    next += 1;
                    let mut steps = order.join(ListenerId(next));
                    steps.extend(order.end_fillers());
                    steps
                }
                Act::Select(n) => nth(n).map_or_else(Vec::new, |one| order.select(&[one])),
                Act::SelectTwo(n, m) => match (nth(n), nth(m)) {
                    (Some(one), Some(two)) if one != two => order.select(&[one, two]),
                    _ => Vec::new(),
                },
                Act::Share(permille, n) => nth(n).map_or_else(Vec::new, |one| order.select_share(permille, &[one])),
                Act::ShareWith(n) => nth(n).map_or_else(Vec::new, |one| {
                    next += 1;
                    order.shares_with(ListenerId(next), &[one]);
                    order.join_selected(ListenerId(next))
                }),
                Act::Route(n) => nth(n).map_or_else(Vec::new, |one| order.route(Some((PROBE, one)))),
                Act::Unroute => order.route(None),
                Act::Leave(n) => nth(n).map_or_else(Vec::new, |one| {
                    let mut steps = fill(&mut order, 1);
                    steps.extend(order.begin_leave(one));
                    steps.push(Step::Close(Member::Listener(one)));
                    steps.extend(order.end_leave(one, None));
                    steps
                }),
                Act::Linger(n) => nth(n).map_or_else(Vec::new, |one| {
                    next += 1;
                    strangers.push(next as u32);
                    let mut steps = fill(&mut order, 1);
                    steps.extend(order.begin_leave(one));
                    for step in &steps {
                        kernel.perform(step);
                    }
                    kernel.linger(one, next as u32);
                    order.end_leave(one, Some(next as u32))
                }),
                Act::JoinSelected => { next += 1; order.join_selected(ListenerId(next)) }
                Act::Deselect(n) => nth(n).map_or_else(Vec::new, |one| order.deselect(one)),
                Act::StrangerComes => {
                    next += 1;
                    strangers.push(next as u32);
                    kernel.sockets.push(Member::Foreign(next as u32));
                    order.meet(&strangers)
                }
                Act::StrangerGoes(n) => {
                    if !strangers.is_empty() {
                        let gone = strangers.remove(n % strangers.len());
                        kernel.leave(Member::Foreign(gone));
                        // Nobody has told us yet, and nothing is wrong.
                        if !before.is_empty() {
                            prop_assert_eq!(kernel.reach(CLIENT), before.clone());
                            prop_assert!(!kernel.may_drop(CLIENT));
                        }
                    }
                    order.meet(&strangers)
                }
            };
            steps.extend(fill(&mut order, 0));
            let after: BTreeSet<u64> = order.selected.iter().map(|listener| listener.0).collect();
            for step in &steps {
                kernel.perform(step);
                let reached = kernel.reach(CLIENT);
                // A stranger is not muted by us: between a close and the next program chance may choose it.
                let ours = reached.iter().filter(|socket| **socket < 1_000_000);
                let common = before.intersection(&after).count() > 0;
                if strangers.is_empty() && common {
                    prop_assert!(!kernel.may_drop(CLIENT), "a request may have to be repeated after {step:?}");
                }
                prop_assert!(ours.clone().all(|socket| before.contains(socket) || after.contains(socket)), "{reached:?} after {step:?}");
            }
            if !after.is_empty() || strangers.is_empty() {
                prop_assert_eq!(kernel.reach(CLIENT), after);
            }
            if let Some((_, routed)) = order.route {
                prop_assert_eq!(kernel.reach(PROBE), BTreeSet::from([routed.0]));
            }
            prop_assert_eq!(&kernel.sockets, &order.members);
        }
    }
}

#[test]
fn the_last_member_moves_into_the_place_of_one_that_leaves() {
    let mut order = Order::default();
    order.found(ListenerId(1));
    for listener in 2..=3 {
        order.join(ListenerId(listener));
    }
    order.select(&[ListenerId(3)]);
    assert_eq!(order.members()[3], Member::Listener(ListenerId(3)));
    let one = |index| vec![Step::Program(Selection { route: None, share: None, targets: vec![index] })];
    assert_eq!(order.begin_leave(ListenerId(1))[..1], one(3));
    assert_eq!(order.end_leave(ListenerId(1), None), one(0));
}

#[test]
fn a_filler_keeps_the_selected_in_its_place_until_the_next_one_joins() {
    let mut order = Order::default();
    order.found(ListenerId(1));
    order.join(ListenerId(2));
    order.select(&[ListenerId(2)]);
    let (filler, _) = order.filler(1).expect("the selected one is the last");
    assert_eq!(order.filler(1), None);
    order.begin_leave(ListenerId(1));
    order.end_leave(ListenerId(1), None);
    assert_eq!(order.members(), [filler, Member::Anchor, Member::Listener(ListenerId(2))]);
    order.join(ListenerId(3));
    order.end_fillers();
    assert_eq!(order.members(), [Member::Listener(ListenerId(3)), Member::Anchor, Member::Listener(ListenerId(2))]);
    order.select(&[ListenerId(3)]);
    assert_eq!(order.filler(1), None, "the last one leaves: nobody is moved");
}

#[test]
fn a_group_is_founded_beside_strangers_and_they_may_leave() {
    let (one, two) = (Member::Foreign(7), Member::Foreign(8));
    let mut kernel = Kernel { sockets: vec![one, two], ..Kernel::default() };
    let mut order = Order::default();
    for step in order.found_beside(&[7, 8], ListenerId(1)) {
        kernel.perform(&step);
    }
    while let Some((_, steps)) = order.filler(0) {
        for step in &steps {
            kernel.perform(step);
        }
    }
    assert_eq!((&kernel.sockets, kernel.reach(1)), (&order.members, BTreeSet::from([1])));
    kernel.leave(one);
    assert_eq!(kernel.reach(1), BTreeSet::from([1]), "before anybody could say a word");
    kernel.leave(two);
    assert_eq!(kernel.reach(1), BTreeSet::from([1]));
    for step in order.meet(&[]) {
        kernel.perform(&step);
    }
    assert_eq!((&kernel.sockets, kernel.reach(1)), (&order.members, BTreeSet::from([1])));
}

#[test]
fn a_share_ends_with_those_who_have_it_or_with_the_others() {
    let mut order = Order::default();
    order.found(ListenerId(1));
    for listener in 2..=3 {
        order.join(ListenerId(listener));
    }
    order.select_share(50, &[ListenerId(2)]);
    assert_eq!(order.selection(), Selection { route: None, share: Some((50, vec![2])), targets: vec![0] });
    order.shares_with(ListenerId(3), &[ListenerId(2)]);
    order.select_also(ListenerId(3));
    assert_eq!(order.selection(), Selection { route: None, share: Some((50, vec![2, 3])), targets: vec![0] });
    let mut alone = order.clone();
    alone.deselect(ListenerId(1));
    assert_eq!(alone.selection(), Selection { route: None, share: None, targets: vec![2, 3] }, "nobody is left to share with");
    order.deselect(ListenerId(2));
    order.deselect(ListenerId(3));
    assert_eq!(order.selection(), Selection { route: None, share: None, targets: vec![0] }, "all goes back");
    order.select_share(50, &[ListenerId(2)]);
    order.select(&[ListenerId(2)]);
    assert_eq!(order.selection(), Selection { route: None, share: None, targets: vec![2] });
}

#[test]
fn selecting_strangers_changes_nothing() {
    let mut order = Order::default();
    order.found(ListenerId(1));
    assert_eq!(order.select(&[ListenerId(9)]), []);
    assert_eq!(order.selected(), [ListenerId(1)]);
}
