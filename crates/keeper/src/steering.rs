//! The steering plan: which steps, in which order, so that a new connection never reaches a listener that must not have it.
//!
//! Pure. It owns the mirror of the kernel's index rules (net/core/sock_reuseport.c): a member's index is its place in the order
//! of `listen` calls; when a member leaves, **the last one moves into its place**; an index out of range means: by hash.
//! Two locks keep a listener that is not selected from getting connections: the program does not name it, and it is
//! *muted* (drops connection requests, which the client's kernel repeats). The second holds in the instants in which the
//! first cannot: between a member's leaving and the new program. One member is the *anchor*, a muted listener of our own that
//! carries the program, because an MPTCP listener cannot.

use crate::protocol::ListenerId;
use serde::{Deserialize, Serialize};
use stayput_kernel::reuseport::Selection;

/// One place in the kernel's order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Member {
    /// Ours; carries the program, takes nothing.
    Anchor,
    /// A held listener.
    Listener(ListenerId),
    /// A muted listener of our own that keeps a place, so that no other member is moved into it.
    Filler(u32),
    /// A stranger of the same user that joined the group: its inode. It is never selected, but it has an index.
    Foreign(u32),
}

/// One thing to do to the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    /// Attach a program to the group, through the anchor.
    Program(Selection),
    /// Let a member drop connection requests, except those from this source port.
    Mute(Member, Option<u16>),
    /// Let a member take connection requests.
    Unmute(ListenerId),
    /// `listen`: the member joins at the end.
    Listen(Member),
    /// The last descriptor of the member's socket is closed: it leaves.
    Close(Member),
}

/// The mirror of one group.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct Order {
    members: Vec<Member>,
    selected: Vec<ListenerId>,
    share: Option<Share>,
    route: Option<(u16, ListenerId)>,
    next_filler: u32,
    /// Whose process is being stopped: it may shut its listener down when it pleases, as a stranger may his.
    leaving: Vec<ListenerId>,
}

/// Some of the selected get a part of the connections, the others the rest. Where there are no others, or none of these is left, those that
/// are there get all.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Share {
    permille: u16,
    of: Vec<ListenerId>,
}

impl Order {
    /// Who takes new connections.
    pub(crate) fn selected(&self) -> &[ListenerId] {
        &self.selected
    }

    /// The members in the kernel's order.
    pub(crate) fn members(&self) -> &[Member] {
        &self.members
    }

    /// It is a member.
    pub(crate) fn has(&self, listener: ListenerId) -> bool {
        self.index(listener).is_some()
    }

    fn index(&self, listener: ListenerId) -> Option<u32> {
        self.members.iter().position(|member| *member == Member::Listener(listener)).map(|index| index as u32)
    }

    /// What the group's program says now.
    pub(crate) fn selection(&self) -> Selection {
        let parted = |share: &&Share| {
            let theirs = self.selected.iter().filter(|listener| share.of.contains(listener)).count();
            theirs > 0 && theirs < self.selected.len()
        };
        let share = self.share.as_ref().filter(parted);
        let indices = |wanted: &dyn Fn(ListenerId) -> bool| {
            self.selected.iter().filter(|listener| wanted(**listener)).filter_map(|listener| self.index(*listener)).collect()
        };
        Selection {
            route: self.route.and_then(|(port, listener)| Some((port, self.index(listener)?))),
            share: share.map(|share| (share.permille, indices(&|listener| share.of.contains(&listener)))),
            targets: indices(&|listener| !share.is_some_and(|share| share.of.contains(&listener))),
        }
    }

    fn mute(&self, listener: ListenerId) -> Step {
        let except = self.route.and_then(|(port, routed)| (routed == listener).then_some(port));
        Step::Mute(Member::Listener(listener), except)
    }

    /// A group begins with its first listener, which takes all; the anchor joins behind it, when the program is there already. In
    /// the other order the anchor would be alone for an instant, and requests of that instant would have to be repeated.
    pub(crate) fn found(&mut self, first: ListenerId) -> Vec<Step> {
        self.found_beside(&[], first)
    }

    /// As [`Order::found`], where strangers (their inodes) are in the group before anybody of ours.
    pub(crate) fn found_beside(&mut self, there: &[u32], first: ListenerId) -> Vec<Step> {
        self.members.extend(there.iter().map(|inode| Member::Foreign(*inode)));
        self.members.push(Member::Listener(first));
        self.selected.push(first);
        let mut steps = vec![Step::Listen(Member::Listener(first)), Step::Program(self.selection())];
        self.members.push(Member::Anchor);
        steps.extend([Step::Mute(Member::Anchor, None), Step::Listen(Member::Anchor), Step::Program(self.selection())]);
        steps
    }

    /// A listener joins: selected at once if nobody is, else muted and unselected.
    pub(crate) fn join(&mut self, listener: ListenerId) -> Vec<Step> {
        self.members.push(Member::Listener(listener));
        if self.selected.is_empty() {
            self.selected.push(listener);
            vec![Step::Program(self.selection()), Step::Listen(Member::Listener(listener))]
        } else {
            vec![self.mute(listener), Step::Listen(Member::Listener(listener))]
        }
    }

    /// How many members at the end may be moved without harm: none of them is selected.
    fn movable(&self) -> usize {
        let harmless = |member: &&Member| !matches!(member, Member::Listener(listener) if self.selected.contains(listener));
        self.members.iter().rev().take_while(harmless).count()
    }

    /// Members that leave when they please. One that is selected is not kept from moving others: it is the one that counts.
    fn foreign(&self) -> usize {
        let leaves = |listener: &ListenerId| self.leaving.contains(listener) && !self.selected.contains(listener);
        let may_leave = |member: &&Member| match member {
            Member::Foreign(_) => true,
            Member::Listener(listener) => leaves(listener),
            Member::Anchor | Member::Filler(_) => false,
        };
        self.members.iter().filter(may_leave).count()
    }

    /// The process that has this one is about to be told to end.
    pub(crate) fn may_leave(&mut self, listener: ListenerId) {
        if self.index(listener).is_some() && !self.leaving.contains(&listener) {
            self.leaving.push(listener);
        }
    }

    /// A filler to listen, if one is needed so that so many leavings of ours, and those of all strangers at any time, move no
    /// selected member. To be called until it says `None`.
    pub(crate) fn filler(&mut self, leavings: usize) -> Option<(Member, Vec<Step>)> {
        if self.selected.is_empty() || self.movable() >= self.foreign() + leavings {
            return None;
        }
        self.next_filler += 1;
        let filler = Member::Filler(self.next_filler);
        self.members.push(filler);
        Some((filler, vec![Step::Mute(filler, None), Step::Listen(filler)]))
    }

    /// There is no filler after all.
    pub(crate) fn no_filler(&mut self, filler: Member) {
        self.members.retain(|member| *member != filler);
    }

    /// Ends fillers that are not needed: right after somebody joined who is not selected yet, and so may be moved.
    pub(crate) fn end_fillers(&mut self) -> Vec<Step> {
        let mut steps = Vec::new();
        while self.movable() > self.foreign()
            && let Some(index) = self.members.iter().position(|member| matches!(member, Member::Filler(_)))
        {
            steps.push(Step::Close(self.members.swap_remove(index)));
        }
        if !steps.is_empty() {
            steps.push(Step::Program(self.selection()));
        }
        steps
    }

    /// A listener joins those that are selected, as one more worker of the same generation.
    pub(crate) fn join_selected(&mut self, listener: ListenerId) -> Vec<Step> {
        let mut steps = self.join(listener);
        steps.extend(self.select_also(listener));
        steps
    }

    /// A member takes its share beside those that are selected.
    pub(crate) fn select_also(&mut self, listener: ListenerId) -> Vec<Step> {
        let mut targets = self.selected.clone();
        if !targets.contains(&listener) {
            targets.push(listener);
        }
        self.reselect(&targets)
    }

    /// One of several that are selected takes nothing more; the only one stays.
    pub(crate) fn deselect(&mut self, listener: ListenerId) -> Vec<Step> {
        let others: Vec<ListenerId> = self.selected.iter().copied().filter(|selected| *selected != listener).collect();
        self.reselect(&others)
    }

    /// Takes note of the strangers that are in the group now: new ones have joined after all that were there before, and
    /// the last member has moved into the place of each that left. Call it before each change of ours.
    pub(crate) fn meet(&mut self, present: &[u32]) -> Vec<Step> {
        let before = self.members.clone();
        while let Some(gone) = self.members.iter().position(|member| matches!(member, Member::Foreign(inode) if !present.contains(inode))) {
            self.members.swap_remove(gone);
        }
        for inode in present {
            if !self.members.contains(&Member::Foreign(*inode)) {
                self.members.push(Member::Foreign(*inode));
            }
        }
        if before == self.members { Vec::new() } else { vec![Step::Program(self.selection())] }
    }

    /// `join` came to nothing: the kernel refused the `listen`.
    pub(crate) fn not_joined(&mut self, listener: ListenerId) {
        self.members.retain(|member| *member != Member::Listener(listener));
        self.selected.retain(|selected| *selected != listener);
    }

    /// These take all new connections from now on. Those that are no members are passed over; if none is, nothing changes.
    pub(crate) fn select(&mut self, targets: &[ListenerId]) -> Vec<Step> {
        self.share = None;
        self.reselect(targets)
    }

    /// These get so many of a thousand new connections, those that are selected and not among them the rest. If there are no such, these get
    /// all; those that are no members are passed over, and if none is, nothing changes.
    pub(crate) fn select_share(&mut self, permille: u16, of: &[ListenerId]) -> Vec<Step> {
        let of: Vec<ListenerId> = of.iter().copied().filter(|listener| self.index(*listener).is_some()).collect();
        if of.is_empty() {
            return Vec::new();
        }
        let others = self.selected.iter().copied().filter(|listener| !of.contains(listener));
        let targets: Vec<ListenerId> = others.chain(of.iter().copied()).collect();
        self.share = Some(Share { permille, of });
        self.reselect(&targets)
    }

    /// If one of these has a share, this one belongs to them: another worker of the same generation.
    pub(crate) fn shares_with(&mut self, listener: ListenerId, others: &[ListenerId]) {
        if let Some(share) = &mut self.share
            && share.of.iter().any(|one| others.contains(one))
            && !share.of.contains(&listener)
        {
            share.of.push(listener);
        }
    }

    fn reselect(&mut self, targets: &[ListenerId]) -> Vec<Step> {
        let targets: Vec<ListenerId> = targets.iter().copied().filter(|target| self.index(*target).is_some()).collect();
        if targets.is_empty() {
            return Vec::new();
        }
        self.selected = targets;
        self.restate()
    }

    /// All steps that make the kernel agree with the mirror; harmless to repeat.
    pub(crate) fn restate(&self) -> Vec<Step> {
        let mut steps: Vec<Step> = self.selected.iter().map(|target| Step::Unmute(*target)).collect();
        steps.push(Step::Program(self.selection()));
        for member in &self.members {
            match member {
                Member::Listener(listener) if !self.selected.contains(listener) => steps.push(self.mute(*listener)),
                Member::Listener(_) | Member::Anchor | Member::Filler(_) | Member::Foreign(_) => {}
            }
        }
        steps
    }

    /// Connections from this source port go to this listener, whoever is selected. `None` ends it.
    pub(crate) fn route(&mut self, route: Option<(u16, ListenerId)>) -> Vec<Step> {
        let before = std::mem::replace(&mut self.route, route);
        let mut steps = Vec::new();
        for listener in [before, route].into_iter().flatten().map(|(_, listener)| listener) {
            if self.index(listener).is_some() && !self.selected.contains(&listener) {
                steps.push(self.mute(listener));
            }
        }
        steps.push(Step::Program(self.selection()));
        steps
    }

    /// A listener is about to leave: no program names it from here on.
    pub(crate) fn begin_leave(&mut self, listener: ListenerId) -> Vec<Step> {
        self.selected.retain(|selected| *selected != listener);
        if self.route.is_some_and(|(_, routed)| routed == listener) {
            self.route = None;
        }
        vec![Step::Program(self.selection()), Step::Mute(Member::Listener(listener), None)]
    }

    /// It has left; the last member has moved into its place. Or, if a process that is still on its way out has its socket
    /// (`lingers`: its inode), it keeps its place until that process is gone, and is counted as a stranger.
    pub(crate) fn end_leave(&mut self, listener: ListenerId, lingers: Option<u32>) -> Vec<Step> {
        self.leaving.retain(|leaving| *leaving != listener);
        let Some(index) = self.index(listener) else { return Vec::new() };
        match lingers {
            Some(inode) => self.members[index as usize] = Member::Foreign(inode),
            None => drop(self.members.swap_remove(index as usize)),
        }
        vec![Step::Program(self.selection())]
    }
}

#[cfg(test)]
mod tests;
