//! Everything that can happen, as `proptest` makes it up.

use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::{RngAlgorithm, TestRng, TestRunner};
use wire::Start;

use super::rules::{Gives, IMAGES, MAKERS, ROLES, Rule, Rules, When};
use super::site::{Act, Fate};

pub fn fate() -> impl Strategy<Value = Fate> {
    prop_oneof![
        8 => Just(Fate::Fine),
        2 => Just(Fate::AnswerLost),
        1 => (0..30_usize).prop_map(Fate::Stopped),
    ]
}

pub fn gives() -> impl Strategy<Value = Gives> {
    let start = prop_oneof![Just(Start::Kexec), Just(Start::Reboot), Just(Start::PowerOff)];
    prop_oneof![
        4 => (0..IMAGES.len(), start.clone())
            .prop_map(|(image, start)| Gives::Image(image, start)),
        2 => ([0..IMAGES.len(), 0..IMAGES.len()], start)
            .prop_map(|(images, start)| Gives::Set(images, start)),
        1 => Just(Gives::Hold),
        1 => Just(Gives::Fail),
    ]
}

pub fn rules() -> impl Strategy<Value = Rules> {
    let (role, maker) = (0..ROLES.len(), 0..MAKERS.len());
    let when = prop_oneof![
        role.clone().prop_map(When::Role),
        maker.clone().prop_map(When::Maker),
        prop_oneof![Just(4), Just(32), Just(64)].prop_map(When::Memory),
        (role, maker).prop_map(|(role, maker)| When::RoleOfMaker(role, maker)),
    ];
    let rule = (when, gives()).prop_map(|(when, gives)| Rule { when: Some(when), gives });
    let last = proptest::option::of(gives().prop_map(|gives| Rule { when: None, gives }));
    (prop::collection::vec(rule, 0..5), last).prop_map(|(mut rules, last)| {
        rules.extend(last);
        Rules(rules)
    })
}

/// What happens to a fleet of so many machines beside what they do.
pub fn incident(machines: usize) -> impl Strategy<Value = Act> {
    let n = 0..machines;
    let version = proptest::option::weighted(0.8, 1..6_u8);
    prop_oneof![
        5 => n.clone().prop_map(Act::Reboot),
        5 => n.clone().prop_map(Act::StepFails),
        4 => (n.clone(), 0..ROLES.len()).prop_map(|(n, role)| Act::Label(n, role)),
        2 => n.clone().prop_map(Act::Hold),
        4 => n.prop_map(Act::Release),
        2 => (0..IMAGES.len(), version).prop_map(|(image, version)| Act::Tag(image, version)),
        1 => rules().prop_map(Act::Policy),
        2 => Just(Act::Restart),
        2 => Just(Act::Kill),
    ]
}

pub fn act(machines: usize) -> impl Strategy<Value = Act> {
    prop_oneof![
        3 => (0..machines, fate()).prop_map(|(n, fate)| Act::Turn(n, fate)),
        1 => incident(machines),
    ]
}

/// What a seed makes up.
pub struct Dice(TestRunner);

impl Dice {
    pub fn new(seed: u64) -> Dice {
        let seed: Vec<u8> = seed.to_le_bytes().repeat(4);
        let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &seed);
        Dice(TestRunner::new_with_rng(ProptestConfig::default(), rng))
    }

    pub fn roll<S: Strategy>(&mut self, strategy: S) -> S::Value {
        strategy.new_tree(&mut self.0).unwrap().current()
    }
}
