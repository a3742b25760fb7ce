use std::collections::BTreeMap;

use super::*;
use crate::window::config::Config;
use crate::window::key::KeyInputs;
use crate::window::packed::Direction;
use flowtap_pipeline::catalog::FamilyId;

#[test]
fn after_a_mass_expiry_the_memory_of_the_slots_is_freed_and_what_is_left_is_found_again() {
    let mut catalog = Catalog::new(&Config::default(), &std::sync::Arc::default());
    let mut store = Store::<Sum>::new(&[usize::MAX; FAMILIES.len()], &[None; FAMILIES.len()]);
    let start = Timestamp::from_nanos(1);
    let keys: Vec<_> = (0..5_000_u32)
        .filter_map(|i| {
            let record =
                crate::testing::record("192.0.2.1:80", &format!("10.0.{}.{}:4000", i / 250, i % 250));
            let inputs = KeyInputs {
                direction: Some(Direction::Outbound),
                ..KeyInputs::default()
            };
            catalog.key(FamilyId::Egress, &record.flow, inputs)
        })
        .collect();
    assert_eq!(keys.len(), 5_000);
    let mut change = |store: &mut Store<Sum>, key: &Key| {
        store.change((store.hash(key), *key), 1, start, &mut catalog);
        store.flush(start, &mut catalog);
    };
    for key in &keys {
        change(&mut store, key);
    }
    let mut shown = 0;
    let mut other = Catalog::new(&Config::default(), &std::sync::Arc::default());
    store.sweep(start, &mut other, |_, _| {
        shown += 1;
        shown % 100 == 0
    });
    assert!(store.slots.capacity() < 200, "{}", store.slots.capacity());
    for key in &keys {
        change(&mut store, key);
    }
    let mut totals = BTreeMap::new();
    store.sweep(start, &mut other, |slot, _| {
        *totals.entry(slot.value.total().0).or_insert(0) += 1;
        true
    });
    let expected = [(1, 4_950), (2, 50)].into();
    assert_eq!(totals, expected, "series of one change, and of two");
}
