//! Any course of machines that make images: each key has one maker at a time, and
//! nobody is told what no rule gives.

use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone)]
enum Act {
    CheckIn(usize),
    /// It has made what it was told to.
    Made(usize),
    /// Its script fails.
    Fail(usize),
    Reboot(usize),
    Role(usize, usize),
    Hold(usize),
    Release(usize),
    /// So much time passes, in milliseconds.
    Pass(u64),
    RemoveImages,
    Kill,
}

const FLEET: usize = 4;
const ROLES: [&str; 3] = ["gpu", "other", "never"];

fn act() -> impl Strategy<Value = Act> {
    let n = 0..FLEET;
    prop_oneof![
        8 => n.clone().prop_map(Act::CheckIn),
        3 => n.clone().prop_map(Act::Made),
        3 => n.clone().prop_map(Act::Fail),
        2 => n.clone().prop_map(Act::Reboot),
        2 => (n.clone(), 0..ROLES.len()).prop_map(|(n, role)| Act::Role(n, role)),
        1 => n.clone().prop_map(Act::Hold),
        1 => n.prop_map(Act::Release),
        1 => prop_oneof![Just(30_000), Just(700_000)].prop_map(Act::Pass),
        1 => Just(Act::RemoveImages),
        1 => Just(Act::Kill),
    ]
}

struct Machine {
    agent: Agent,
    role: Option<&'static str>,
    held: bool,
    makes: Option<MakeOrder>,
}

struct Course {
    world: World,
    machines: Vec<Machine>,
    /// Counts the images that were made.
    images: u8,
}

impl Course {
    async fn check_in(&mut self, n: usize) -> bool {
        let Course { world, machines, .. } = self;
        let machine = &mut machines[n];
        let answer = world.check_in(&mut machine.agent).await;
        let whole = world.workshop.whole("gpu.toml", &facts(&machine.agent, machine.role));
        let named = |reference: &wire::Reference| {
            world.images.0.lock().unwrap().get(&reference.to_string()).copied()
        };
        machine.makes = None;
        let gives = !machine.held && machine.role != Some("never");
        match answer.order {
            Order::Hold(_) => return false,
            Order::Make(order) => {
                assert!(gives && machine.role != Some("other"), "{order:?}");
                assert_eq!(order.making.configuration, whole);
                assert_eq!(named(&order.base.reference), Some(order.base.image));
                machine.makes = Some(*order);
            }
            Order::Deploy(order) => {
                assert!(gives, "{order:?}");
                let expected = match machine.role {
                    Some("other") => "web:2".parse().unwrap(),
                    _ => whole.reference(),
                };
                assert_eq!(order.system.reference, expected);
                assert_eq!(named(&expected), Some(order.system.image));
                return true;
            }
            other => panic!("{other:?}"),
        }
        false
    }

    async fn made(&mut self, n: usize) {
        let Some(order) = self.machines[n].makes.take() else { return };
        self.images = self.images.wrapping_add(1);
        let image = Digest([self.images; 32]);
        self.world.store(image);
        let told = made(&self.machines[n].agent, &order, image);
        match self.world.controller.made(&told, self.world.now).await {
            Ok(()) | Err(ControllerError::Conflict(_)) => {}
            Err(other) => panic!("{other}"),
        }
    }

    /// Of each key there is one maker at most.
    async fn one_maker(&self) {
        let list = self.world.controller.machines(None, 100, None).await.unwrap().machines;
        let mut keys = std::collections::BTreeSet::new();
        for id in list.iter().filter_map(|machine| machine.run.as_ref()) {
            let run = self.world.controller.run(id).await.unwrap().summary;
            if let (Some(made), false) = (run.makes, run.state.is_over()) {
                assert!(keys.insert(made.key), "{id} is not the only one that makes {made}");
            }
        }
    }

    async fn apply(&mut self, act: &Act) {
        match *act {
            Act::CheckIn(n) => drop(self.check_in(n).await),
            Act::Made(n) => self.made(n).await,
            Act::Fail(n) => {
                let Machine { agent, makes, .. } = &mut self.machines[n];
                if let Some(order) = makes.take() {
                    self.world.break_off(agent, &order).await;
                }
            }
            Act::Reboot(n) => {
                self.machines[n].agent.restart();
                self.machines[n].makes = None;
            }
            Act::Role(n, role) => {
                self.world.role(&self.machines[n].agent, ROLES[role]).await;
                self.machines[n].role = Some(ROLES[role]);
            }
            Act::Hold(n) => {
                let request = HoldRequest { reason: "x".into() };
                let id = self.machines[n].agent.machine.clone().unwrap();
                self.world.controller.hold(&id, &request).await.unwrap();
                self.machines[n].held = true;
            }
            Act::Release(n) => {
                self.world.release_of(&self.machines[n].agent).await;
                self.machines[n].held = false;
            }
            Act::Pass(ms) => self.world.now += ms,
            Act::RemoveImages => {
                let mut names = self.world.images.0.lock().unwrap();
                names.retain(|name, _| !name.starts_with("built/"));
            }
            Act::Kill => {
                self.world.kill().await;
                self.world.workshop.end(1000);
            }
        }
    }

    /// Nothing goes wrong any more: everybody gets an image in the end.
    async fn conclude(&mut self) {
        for n in 0..FLEET {
            self.apply(&Act::Role(n, 0)).await;
            self.apply(&Act::Reboot(n)).await;
        }
        for n in 0..FLEET {
            let mut given = false;
            for _ in 0..2000 {
                self.apply(&Act::Release(n)).await;
                given = self.check_in(n).await;
                if given {
                    break;
                }
                for n in 0..FLEET {
                    self.check_in(n).await;
                    self.made(n).await;
                }
                self.one_maker().await;
            }
            assert!(given, "machine {n} waits for ever");
        }
    }
}

async fn course(acts: &[Act]) {
    let world = World::with(POLICY).await;
    world.workshop.end(1000);
    let machine =
        |number| Machine { agent: Agent::new(number), role: None, held: false, makes: None };
    let mut machines: Vec<_> = (0..u32::try_from(FLEET).unwrap()).map(machine).collect();
    machines[0].agent.inventory.system.product = Some("X2".into());
    let mut course = Course { world, machines, images: 0 };
    for n in 0..FLEET {
        course.check_in(n).await;
    }
    course.world.built(1).await;
    for act in acts {
        course.apply(act).await;
        course.one_maker().await;
    }
    course.conclude().await;
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
    #[test]
    fn each_key_has_one_maker_and_nobody_is_told_what_no_rule_gives(
        acts in prop::collection::vec(act(), 1..50),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(course(&acts));
    }
}
