//! Tests of requests on disk, with real files.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use bytes::Bytes;

use super::config::max_bytes;
use super::table::PAGE_BYTES;
use super::*;
use crate::testing::context;

fn request(text: &str) -> Request {
    Request {
        body: Bytes::from(text.to_owned()),
        kind: PipelineKind::Logs,
        items: text.len() as u64,
        last: false,
    }
}

fn config(directory: &Path) -> StorageConfig {
    StorageConfig {
        directory: directory.to_owned(),
        max_bytes: max_bytes(),
        when_full: WhenDiskFull::DropOldest,
    }
}

fn bodies(storage: &Storage) -> Vec<String> {
    let mut bodies = Vec::new();
    while let Some(stored) = storage.first(None).unwrap() {
        bodies.push(String::from_utf8(stored.request.body.to_vec()).unwrap());
        storage.remove(&stored);
    }
    bodies
}

#[test]
fn requests_come_back_in_their_order_after_a_restart_with_their_points() {
    let folder = tempfile::tempdir().unwrap();
    let storage = Storage::open(&config(folder.path()), &context()).unwrap();
    for text in ["one", "two", "three"] {
        assert_eq!(storage.push(&request(text)).unwrap(), []);
    }
    storage.remove(&storage.first(None).unwrap().unwrap());
    drop(storage);
    let storage = Storage::open(&config(folder.path()), &context()).unwrap();
    assert_eq!(storage.waiting(), (2, 2 * PAGE_BYTES));
    assert_eq!(storage.first(None).unwrap().unwrap().request.items, 3);
    storage.push(&request("four")).unwrap();
    assert_eq!(bodies(&storage), ["two", "three", "four"]);
    assert_eq!(storage.waiting(), (0, 0));
}

#[test]
fn a_lane_has_the_requests_of_its_kind_in_their_order_whatever_waits_in_the_other() {
    const METRICS: Lane = Some(PipelineKind::Metrics);
    const LOGS: Lane = Some(PipelineKind::Logs);
    let folder = tempfile::tempdir().unwrap();
    let storage = Storage::open(&config(folder.path()), &context()).unwrap();
    let first = |storage: &Storage, lane| {
        let stored = storage.first(lane).unwrap()?;
        let body = String::from_utf8(stored.request.body.to_vec()).unwrap();
        Some((body, stored))
    };
    let points = |text| Request {
        kind: PipelineKind::Metrics,
        ..request(text)
    };
    for request in [
        request("l1"),
        request("l2"),
        points("m1"),
        request("l3"),
        points("m2"),
    ] {
        storage.push(&request).unwrap();
    }
    assert_eq!(first(&storage, LOGS).unwrap().0, "l1");
    for expected in ["m1", "m2"] {
        let (body, stored) = first(&storage, METRICS).unwrap();
        assert_eq!(body, expected);
        storage.remove(&stored);
    }
    assert!(first(&storage, METRICS).is_none());
    storage.push(&request("l4")).unwrap();
    storage.push(&points("m3")).unwrap();
    assert_eq!(first(&storage, METRICS).unwrap().0, "m3");
    assert_eq!(first(&storage, LOGS).unwrap().0, "l1");
    drop(storage);
    let storage = Storage::open(&config(folder.path()), &context()).unwrap();
    assert_eq!(first(&storage, METRICS).unwrap().0, "m3");
    assert_eq!(bodies(&storage), ["l1", "l2", "l3", "l4", "m3"]);
}

#[test]
fn a_directory_that_another_flowtap_uses_is_an_error_with_the_key_and_the_remedy() {
    let folder = tempfile::tempdir().unwrap();
    let _first = Storage::open(&config(folder.path()), &context()).unwrap();
    let error = Storage::open(&config(folder.path()), &context()).unwrap_err();
    let file = folder.path().join("requests.redb");
    assert_eq!(
        error.to_string(),
        format!(
            "storage.directory: another process, or another exporter of this one, uses {}; \
             hint: stop the other flowtap, or choose another `storage.directory`",
            file.display()
        )
    );
    assert!(
        std::error::Error::source(&error).is_none(),
        "redb's words would follow"
    );
}

#[test]
fn at_its_limit_the_oldest_or_the_newest_is_dropped_and_its_points_are_returned() {
    let folder = tempfile::tempdir().unwrap();
    let small = |when_full| StorageConfig {
        max_bytes: 2 * PAGE_BYTES,
        when_full,
        ..config(folder.path())
    };
    let storage = Storage::open(&small(WhenDiskFull::DropOldest), &context()).unwrap();
    for text in ["aaaa", "bbbb"] {
        storage.push(&request(text)).unwrap();
    }
    assert_eq!(storage.push(&request("cccc")).unwrap(), [(PipelineKind::Logs, 4)]);
    drop(storage);
    let storage = Storage::open(&small(WhenDiskFull::DropNewest), &context()).unwrap();
    assert_eq!(storage.push(&request("dddd")).unwrap(), [(PipelineKind::Logs, 4)]);
    assert_eq!(bodies(&storage), ["bbbb", "cccc"]);
}

#[test]
fn what_is_delivered_on_a_full_disk_takes_no_place_from_what_is_new() {
    let folder = tempfile::tempdir().unwrap();
    let config = StorageConfig {
        max_bytes: 2 * PAGE_BYTES,
        when_full: WhenDiskFull::DropNewest,
        ..config(folder.path())
    };
    let storage = Storage::open(&config, &context()).unwrap();
    for text in ["aaaa", "bbbb"] {
        storage.push(&request(text)).unwrap();
    }
    storage.lock().full = true;
    assert_eq!(bodies(&storage), ["aaaa", "bbbb"]);
    // An error: it is sent from memory.
    assert!(storage.push(&request("cccc")).is_err());

    storage.lock().full = false;
    assert_eq!(storage.push(&request("dddd")).unwrap(), []);
    assert_eq!(bodies(&storage), ["dddd"]);
}

#[test]
fn a_damaged_request_is_skipped_and_the_others_are_not() {
    let folder = tempfile::tempdir().unwrap();
    let storage = Storage::open(&config(folder.path()), &context()).unwrap();
    for text in ["one", "two", "three"] {
        storage.push(&request(text)).unwrap();
    }
    let state = storage.lock();
    let transaction = state.database.as_ref().unwrap().begin_write().unwrap();
    transaction
        .open_table(REQUESTS)
        .unwrap()
        .insert(1, &b"\x01\x02\x03\x04\x03\0\0\0\0\0\0\0two"[..])
        .unwrap();
    transaction.commit().unwrap();
    drop(state);
    assert_eq!(bodies(&storage), ["one", "three"]);
}

#[test]
fn after_a_failure_the_file_is_opened_again_and_what_was_delivered_does_not_come_back() {
    let folder = tempfile::tempdir().unwrap();
    let storage = Storage::open(&config(folder.path()), &context()).unwrap();
    for text in ["one", "two"] {
        storage.push(&request(text)).unwrap();
    }
    let first = storage.first(None).unwrap().unwrap();
    storage.lock().full = true;
    storage.remove(&first);
    let mut state = storage.lock();
    assert!(state.database.is_none());
    state.full = false;
    drop(state);
    assert_eq!(bodies(&storage), ["two"]);
}

#[test]
fn on_a_full_disk_all_that_waits_is_delivered_and_removed_when_there_is_room() {
    let folder = tempfile::tempdir().unwrap();
    let storage = Storage::open(&config(folder.path()), &context()).unwrap();
    for text in ["one", "two", "three"] {
        storage.push(&request(text)).unwrap();
    }
    storage.lock().full = true;
    assert_eq!(bodies(&storage), ["one", "two", "three"]);
    assert_eq!((storage.waiting(), storage.unremoved()), ((0, 0), 3));
    assert!(storage.push(&request("four")).is_err());
    storage.remove_rest();
    assert_eq!(storage.unremoved(), 3);

    storage.lock().full = false;
    storage.push(&request("five")).unwrap();
    assert_eq!(bodies(&storage), ["five"]);
    assert_eq!((storage.waiting(), storage.unremoved()), ((0, 0), 0));
    drop(storage);
    let storage = Storage::open(&config(folder.path()), &context()).unwrap();
    assert_eq!(storage.waiting(), (0, 0), "removed from the file, too");
}

#[test]
fn a_request_takes_as_much_room_as_it_does_compressed_and_comes_back_whole() {
    let folder = tempfile::tempdir().unwrap();
    let storage = Storage::open(&config(folder.path()), &context()).unwrap();
    let text = "the same again and again ".repeat(40_000);
    storage.push(&request(&text)).unwrap();
    assert_eq!(storage.waiting(), (1, PAGE_BYTES), "a megabyte before");
    let stored = storage.first(None).unwrap().unwrap();
    assert_eq!(stored.request.items, text.len() as u64);
    storage.remove(&stored);
    assert_eq!(storage.waiting(), (0, 0));
    assert_eq!(stored.request.body, text);
}

#[test]
fn a_request_of_an_earlier_version_is_delivered() {
    let mut value = [&[0; 4][..], &3_u64.to_le_bytes(), b"two"].concat();
    let checksum = crc32fast::hash(&value[4..]);
    value[..4].copy_from_slice(&checksum.to_le_bytes());
    let request = decode(value).unwrap();
    assert_eq!((request.items, &*request.body), (3, &b"two"[..]));
}

#[test]
fn the_limit_is_that_of_the_file_within_what_the_documentation_allows() {
    let folder = tempfile::tempdir().unwrap();
    let limit = 16 << 20;
    let bounded = StorageConfig {
        max_bytes: limit,
        ..config(folder.path())
    };
    let storage = Storage::open(&bounded, &context()).unwrap();
    // Noise, which does not compress, of the length that uses most space: just above a power of
    // two.
    let noise: Vec<u8> = (0..(1 << 20) + 100).map(|_| fastrand::u8(..)).collect();
    let mut dropped = 0;
    for _ in 0..40 {
        let request = Request {
            body: noise.clone().into(),
            kind: PipelineKind::Metrics,
            items: 1,
            last: false,
        };
        dropped += storage.push(&request).unwrap().len() as u64;
    }
    let (requests, bytes) = storage.waiting();
    assert_eq!((requests + dropped, bytes), (40, requests << 21));
    assert_eq!(requests, 8);
    let file = fs::metadata(folder.path().join("requests.redb")).unwrap();
    let allocated = MetadataExt::blocks(&file) * 512;
    assert!(allocated <= limit * 3 / 2 + (8 << 20), "{allocated}");
}

#[test]
fn every_damaged_file_is_set_aside_under_a_name_of_its_own_and_measuring_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("requests.redb");
    let whole = {
        let storage = Storage::open(&config(folder.path()), &context()).unwrap();
        storage.push(&request("one")).unwrap();
        drop(storage);
        fs::read(&file).unwrap()
    };
    let truncated = whole[..whole.len() / 3].to_vec();
    let torn = [&whole[..1024], &vec![0xa5; whole.len() - 1024]].concat();
    let damaged = [
        b"this is something else".to_vec(),
        vec![0; 10_000],
        (0..100_000).map(|_| fastrand::u8(..)).collect(),
        truncated,
        torn,
    ];
    for (index, content) in damaged.iter().enumerate() {
        fs::write(&file, content).unwrap();
        let storage = Storage::open(&config(folder.path()), &context()).unwrap();
        assert_eq!(storage.push(&request("two")).unwrap(), [], "{index}");
        assert_eq!(bodies(&storage), ["two"], "{index}");
        let aside = fs::read_dir(folder.path()).unwrap().filter(|entry| {
            let name = entry.as_ref().unwrap().file_name();
            name.to_string_lossy().starts_with("requests.corrupt-")
        });
        assert_eq!(aside.count(), index + 1);
    }
}

#[test]
fn a_directory_that_comes_late_is_used_from_then_on_and_strict_runs_refuse_it() {
    let folder = tempfile::tempdir().unwrap();
    let directory = folder.path().join("mount");
    // A file in its place: no right of root gets over that.
    fs::write(&directory, "").unwrap();
    let strict = BuildContext {
        strict: true,
        ..context()
    };
    let refused = Storage::open(&config(&directory), &strict).err().unwrap();
    assert!(refused.to_string().contains("mount"), "{refused}");
    let refused = flowtap_pipeline::StageError::from(refused);
    assert!(
        matches!(refused, flowtap_pipeline::StageError::Temporary(_)),
        "a mount mends it"
    );
    let storage = Storage::open(&config(&directory), &context()).unwrap();
    assert!(storage.push(&request("one")).is_err());
    fs::remove_file(&directory).unwrap();
    storage.push(&request("two")).unwrap();
    assert_eq!(bodies(&storage), ["two"]);
}

#[test]
fn a_file_belongs_to_one_exporter() {
    let folder = tempfile::tempdir().unwrap();
    let _first = Storage::open(&config(folder.path()), &context()).unwrap();
    let second = Storage::open(&config(folder.path()), &context());
    assert!(second.err().unwrap().to_string().contains("requests.redb"));
}

#[test]
fn a_file_that_is_removed_or_replaced_is_written_again_with_what_waits() {
    for how in 0..3 {
        let folder = tempfile::tempdir().unwrap();
        let directory = folder.path().join("queue");
        let file = directory.join("requests.redb");
        let storage = Storage::open(&config(&directory), &context()).unwrap();
        storage.push(&request("one")).unwrap();
        match how {
            0 => fs::remove_file(&file).unwrap(),
            1 => {
                fs::copy(&file, folder.path().join("copy")).unwrap();
                fs::rename(folder.path().join("copy"), &file).unwrap();
            }
            _ => fs::rename(&directory, folder.path().join("moved")).unwrap(),
        }
        storage.push(&request("two")).unwrap();
        assert!(storage.orphaned(None).is_empty());
        drop(storage);
        let storage = Storage::open(&config(&directory), &context()).unwrap();
        assert_eq!(bodies(&storage), ["one", "two"], "{how}");
    }
}

#[test]
fn what_waits_in_a_file_that_is_gone_for_good_is_counted() {
    let folder = tempfile::tempdir().unwrap();
    let directory = folder.path().join("queue");
    let storage = Storage::open(&config(&directory), &context()).unwrap();
    storage.push(&request("one")).unwrap();
    fs::remove_dir_all(&directory).unwrap();
    // No right of root gets over that.
    fs::write(&directory, "").unwrap();
    assert!(storage.push(&request("two")).is_err());
    assert_eq!(storage.orphaned(None), BTreeMap::from([(PipelineKind::Logs, 3)]));
    assert_eq!(bodies(&storage), ["one"]);
}
