//! The container that a cgroup belongs to, from the cgroup's path.
//!
//! In: a path in a cgroup hierarchy. Out: the id of the innermost container on it, whose processes are that container's:
//!
//! | runtime | component of the path | id |
//! |---|---|---|
//! | Docker, containerd (CRI, nerdctl), CRI-O, Podman, Kubernetes with either driver | 64 hexadecimal digits, alone or after `-` or `:`, with or without `.scope` | the digits |
//! | ECS on Fargate | `<task>-<number>` below `ecs` | the component |
//! | LXC, LXD, Incus | `lxc.payload.<name>`, or `<name>` in `lxc.payload` or `lxc` | the name |
//! | systemd-nspawn, libvirt's LXC | `machine-<name>.scope`, `systemd-nspawn@<name>.service` | the name |
//! | `BuildKit`, Garden, `ctr` | `<name>` in `buildkit`, `garden`, or in a top-level `default` | the name |
//!
//! A component that matches nothing (a service in a container, the payload of one) belongs to whatever is above it. Slices and
//! mount units carry ids of containers and pods in their names but hold no process of a container; monitors (conmon, the
//! supervisor of systemd-nspawn, LXC's) are processes of the host; a virtual machine is not a container.

use std::borrow::Cow;

/// Digits of the id that the OCI runtimes' callers choose.
const OCI_ID_DIGITS: usize = 64;

/// Digits of an ECS task's id.
const TASK_ID_DIGITS: usize = 32;

/// Bound on names. Anybody with a delegated cgroup can name one, and the name becomes a label.
const MAX_NAME: usize = 128;

/// Returns the id of the innermost container on `path`, such as `/docker/<id>` or `system.slice/docker-<id>.scope/init.scope`.
pub fn container_of(path: &str) -> Option<Cow<'_, str>> {
    let components: Vec<&str> = path
        .split('/')
        .filter(|component| !component.is_empty())
        .collect();
    (0..components.len()).rev().find_map(|i| {
        let (above, below) = (&components[..i], components.get(i + 1).copied());
        id_of(components[i], above, below)
    })
}

/// Returns the id of the container that `component` itself names, between the components `above` and `below`.
fn id_of<'a>(component: &'a str, above: &[&str], below: Option<&str>) -> Option<Cow<'a, str>> {
    let unit = component.strip_suffix(".scope");
    let name = unit.unwrap_or(component);
    let parent = above.last().copied().unwrap_or_default();
    if let Some(id) = oci_id(name, parent) {
        return Some(id.into());
    }
    if above.contains(&"ecs") && is_task_container(name) {
        return Some(name.into());
    }
    // A machine's own manager runs beside its payload (systemd-nspawn with a delegated cgroup).
    let machine = match (unit, component.strip_prefix("systemd-nspawn@")) {
        _ if below == Some("supervisor") => None,
        (Some(unit), _) => unit.strip_prefix("machine-"),
        (None, Some(rest)) => rest.strip_suffix(".service"),
        (None, None) => None,
    };
    if let Some(machine) = machine {
        let name = unescape(machine);
        return (is_name(&name) && !name.starts_with("qemu-")).then_some(name);
    }
    let named = component.strip_prefix("lxc.payload.").or(match parent {
        "lxc" | "lxc.payload" | "buildkit" | "garden" => Some(component),
        // `ctr run`, in containerd's namespace of that name; its others hold OCI ids.
        "default" if above.len() == 1 => Some(component),
        _ => None,
    });
    named.filter(|name| is_name(name)).map(Cow::from)
}

fn oci_id<'a>(name: &'a str, parent: &str) -> Option<&'a str> {
    let start = name.len().checked_sub(OCI_ID_DIGITS)?;
    let (prefix, digits) = (name.get(..start)?, name.get(start..)?);
    let is_hex = digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    let is_apart = prefix.is_empty() || prefix.ends_with(['-', ':']);
    // Podman's pods are folders of that form, in which each container has its own.
    let is_pod = prefix.is_empty() && parent == "libpod_parent" || prefix.ends_with("libpod_pod_");
    (is_hex && is_apart && !is_pod && !prefix.contains("conmon")).then_some(digits)
}

fn is_task_container(name: &str) -> bool {
    name.split_once('-').is_some_and(|(task, number)| {
        let is_task = task.len() == TASK_ID_DIGITS && task.bytes().all(|b| b.is_ascii_hexdigit());
        is_task && !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit())
    })
}

fn is_name(name: &str) -> bool {
    let is_of_names = |b: u8| b.is_ascii_alphanumeric() || b"._-:@+".contains(&b);
    !name.is_empty() && name.len() <= MAX_NAME && name.bytes().all(is_of_names)
}

/// Undoes systemd's escapes in a unit's name: `\x2d` is `-` (systemd.unit(5)).
fn unescape(name: &str) -> Cow<'_, str> {
    if !name.contains("\\x") {
        return name.into();
    }
    let (mut plain, mut rest) = (String::with_capacity(name.len()), name);
    while let Some((before, after)) = rest.split_once("\\x") {
        plain.push_str(before);
        let byte = after
            .get(..2)
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        if let Some(byte) = byte.filter(u8::is_ascii) {
            plain.push(byte.into());
            rest = &after[2..];
        } else {
            // Not an escape; `is_name` rejects the backslash.
            plain.push_str("\\x");
            rest = after;
        }
    }
    plain.push_str(rest);
    plain.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "4f0d1cbe2a8b93d7e65f4f0d1cbe2a8b93d7e65f4f0d1cbe2a8b93d7e65f0a1b";
    const OTHER: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
    const TASK: &str = "0123456789abcdef0123456789abcdef";
    const USER: &str = "/user.slice/user-1000.slice/user@1000.service";
    const POD: &str = "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod8a_1.slice";

    #[test]
    fn every_runtime_with_oci_ids_is_recognised_with_either_cgroup_driver() {
        for path in [
            // Docker: cgroupfs, systemd, rootless, a cgroup parent.
            format!("/docker/{ID}"),
            format!("/system.slice/docker-{ID}.scope"),
            format!("{USER}/user.slice/docker-{ID}.scope"),
            format!("/jenkins/{ID}"),
            // containerd: CRI, a systemd path given to the cgroupfs driver, nerdctl, ctr.
            format!("{POD}/cri-containerd-{ID}.scope"),
            format!("/system.slice/containerd.service/kubepods-besteffort-pod8a_1.slice:cri-containerd:{ID}"),
            format!("/system.slice/nerdctl-{ID}.scope"),
            format!("/k8s.io/{ID}"),
            // CRI-O: systemd, with crun's own level, cgroupfs.
            format!("{POD}/crio-{ID}.scope"),
            format!("{POD}/crio-{ID}.scope/container"),
            format!("/kubepods/besteffort/pod0123-4567/crio-{ID}"),
            // Podman: rootful, a quadlet's split cgroups, rootless, in a pod, cgroupfs.
            format!("/machine.slice/libpod-{ID}.scope/container"),
            format!("/system.slice/web.service/libpod-payload-{ID}"),
            format!("{USER}/user.slice/libpod-{ID}.scope/container"),
            format!("/machine.slice/machine-libpod_pod_{OTHER}.slice/libpod-{ID}.scope"),
            format!("/libpod_parent/{OTHER}/libpod-{ID}"),
            format!("/libpod_parent/libpod-{ID}"),
            // Kubernetes by cgroupfs: every class of service; kind's own root.
            format!("/kubepods/pod0123-4567/{ID}"),
            format!("/kubepods/burstable/pod0123-4567/{ID}"),
            format!("/kubepods/besteffort/pod0123-4567/{ID}"),
            format!("/kubelet/kubepods/burstable/pod0123-4567/{ID}"),
            // ECS on EC2, both drivers.
            format!("/ecs/{TASK}/{ID}"),
            format!("/ecstasks.slice/ecstasks-{TASK}.slice/docker-{ID}.scope"),
            // The innermost, and what runs inside of it.
            format!("/docker/{OTHER}/docker/{ID}"),
            format!("/docker/{OTHER}/kubelet.slice/kubelet-kubepods.slice/cri-containerd-{ID}.scope"),
            format!("/lxc.payload.web/system.slice/docker-{ID}.scope"),
            format!("/docker/{ID}/system.slice/nginx.service"),
            format!("/docker/{ID}/init.scope"),
            // The monitor of a nested container is a process of the outer one.
            format!("/docker/{ID}/machine.slice/libpod-conmon-{OTHER}.scope"),
        ] {
            assert_eq!(container_of(&path).as_deref(), Some(ID), "{path}");
        }
    }

    #[test]
    fn containers_with_names_have_their_names() {
        for (path, name) in [
            ("/lxc.payload.web", "web"),
            ("/lxc.payload.web-1/system.slice/nginx.service", "web-1"),
            ("/lxc.payload/web/init.scope", "web"),
            ("/lxc/101/ns", "101"),
            ("/lxc.payload.project_web", "project_web"),
            ("/machine.slice/machine-build.scope/payload", "build"),
            ("/machine.slice/machine-a\\x2db.scope", "a-b"),
            (
                "/machine.slice/machine-lxc\\x2d4711\\x2dweb.scope",
                "lxc-4711-web",
            ),
            (
                "/machine.slice/systemd-nspawn@build.service/payload/init.scope",
                "build",
            ),
            (
                "/docker/buildkit/w2ezpbcgzt81hbt5yc3ky1ks6",
                "w2ezpbcgzt81hbt5yc3ky1ks6",
            ),
            (
                "/buildkit/w2ezpbcgzt81hbt5yc3ky1ks6/init",
                "w2ezpbcgzt81hbt5yc3ky1ks6",
            ),
            (
                "/garden/70af7a9e-52f3-4d7f-74d6-2f9c",
                "70af7a9e-52f3-4d7f-74d6-2f9c",
            ),
            ("/default/redis", "redis"),
        ] {
            assert_eq!(container_of(path).as_deref(), Some(name), "{path}");
        }
        let fargate = format!("{TASK}-2394512345");
        for path in [
            format!("/ecs/{TASK}/{fargate}"),
            format!("/ecs/blue/{TASK}/{fargate}"),
        ] {
            assert_eq!(container_of(&path).as_deref(), Some(&*fargate), "{path}");
        }
    }

    #[test]
    fn services_slices_monitors_mounts_and_machines_are_not_containers() {
        for path in [
            "/".to_owned(),
            "/init.scope".to_owned(),
            "/system.slice/docker.service".to_owned(),
            "/system.slice/containerd.service".to_owned(),
            "/user.slice/user-0.slice/session-1.scope".to_owned(),
            format!("{USER}/app.slice/app-firefox.scope"),
            POD.to_owned(),
            "/kubepods/besteffort/pod0123-4567".to_owned(),
            format!("{POD}/crio-conmon-{ID}.scope"),
            format!("/machine.slice/libpod-conmon-{ID}.scope"),
            "/libpod_parent/conmon".to_owned(),
            format!("/libpod_parent/{ID}"),
            format!("/machine.slice/machine-libpod_pod_{ID}.slice"),
            "/lxc.monitor.web".to_owned(),
            "/lxc.monitor/web".to_owned(),
            "/lxc".to_owned(),
            "/machine.slice/machine-build.scope/supervisor".to_owned(),
            "/machine.slice/machine-qemu\\x2d1\\x2dvm.scope/libvirt/emulator".to_owned(),
            "/machine.slice/systemd-nspawn@build.service/supervisor".to_owned(),
            format!("/system.slice/var-lib-docker-overlay2-{ID}-merged.mount"),
            // More digits than an id has, and digits that only look like hexadecimal ones.
            format!("/docker/f{ID}"),
            format!("/docker/{}", ID.to_uppercase()),
            format!("/docker/{}g", &ID[1..]),
            "/a/default/redis".to_owned(),
            format!("/ecs/{TASK}"),
        ] {
            assert_eq!(container_of(&path), None, "{path}");
        }
    }

    #[test]
    fn names_that_anybody_can_choose_are_bounded_and_plain() {
        let long = "x".repeat(MAX_NAME + 1);
        for name in [
            "\u{1b}[2J",
            "a b",
            "a\"b",
            "\\x1b",
            "\\x",
            "\u{fffd}",
            "日本",
            &long,
        ] {
            assert_eq!(container_of(&format!("/lxc.payload.{name}")), None, "{name:?}");
            assert_eq!(
                container_of(&format!("/machine.slice/machine-{name}.scope")),
                None,
                "{name:?}"
            );
        }
    }
}
