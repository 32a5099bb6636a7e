// The guard of the local machine: is this tree a kernel's own, may it be written, and is the machine ours to change?
//
//   root "/"      Linux? in the initial namespaces, no container's marks? the user's id 0?      else one sentence, and why
//   any root      the file that would be written: which mount is on top of it, of what type, read-only?
//
//   /sys and below   sysfs      /proc and below   proc      both: fuse.dimmer, a twin that answers as a kernel does
//
// A plain directory takes every write and never says no: it is a picture of a machine, not one (lab: "plain files accept every
// write"). A container shares the kernel, and its memory blocks, with others; that it may write /sys does not make them its
// own. Everything looked at here is only read; nothing is cached, since mounts change.
//
// The initial namespaces have fixed inode numbers (Linux include/uapi/linux/nsfs.h, before it include/linux/proc_ns.h). Marks
// of containers follow systemd-detect-virt(1).

import * as fs from 'node:fs';
import * as path from 'node:path';
import type { HostFailure } from '#control/host';

/** What the guard looks at. A test gives its own. */
export type Surroundings = {
  readonly platform: string;
  /** Effective user id; undefined where there is none. */
  readonly uid: number | undefined;
  readonly mountinfo: string;
  /** "pid" -> "pid:[4026531836]"; undefined when it cannot be read. */
  readonly namespaceOf: (kind: string) => string | undefined;
  readonly exists: (file: string) => boolean;
  /** The environment of process 1, NUL-divided; undefined when it may not be read. */
  readonly initEnvironment: string | undefined;
};

export function surroundings(): Surroundings {
  return {
    platform: process.platform,
    uid: process.geteuid?.(),
    mountinfo: readOr('/proc/self/mountinfo', ''),
    namespaceOf: (kind) => {
      try {
        return fs.readlinkSync(`/proc/self/ns/${kind}`);
      } catch {
        return undefined;
      }
    },
    exists: (file) => fs.existsSync(file),
    initEnvironment: readOr('/proc/1/environ', undefined),
  };
}

function readOr<T>(file: string, otherwise: T): string | T {
  try {
    return fs.readFileSync(file, 'utf8');
  } catch {
    return otherwise;
  }
}

const INITIAL_NAMESPACES: readonly (readonly [kind: string, inode: number, says: string])[] = [
  ['user', 0xeffffffd, 'a user namespace of its own'],
  ['pid', 0xeffffffc, 'a process-id namespace of its own'],
  ['cgroup', 0xeffffffb, 'a cgroup namespace of its own'],
];

const CONTAINER_FILES: readonly (readonly [file: string, says: string])[] = [
  ['/run/.containerenv', 'Podman'],
  ['/.dockerenv', 'Docker'],
  ['/run/systemd/container', 'systemd'],
];

/** Why this machine must not be changed from here, whatever is written; undefined when it may be. */
export function whyNotOurs(root: string, s: Surroundings): HostFailure | undefined {
  if (root !== '/') return undefined;
  if (s.platform !== 'linux')
    return unsupported('there is no Linux here: only a Linux host has memory blocks to change');
  const container = containerMark(s);
  if (container !== undefined)
    return denied(`this is a container (${container}): the machine's memory is changed from its host`);
  if (s.uid !== 0) return denied('changing this machine needs root: run it with sudo');
  return undefined;
}

/** What shows that this is a container; undefined when nothing does. */
export function containerMark(s: Surroundings): string | undefined {
  for (const [file, says] of CONTAINER_FILES) if (s.exists(file)) return `${file}, of ${says}`;
  const word = s.initEnvironment?.split('\0').find((line) => line.startsWith('container='));
  if (word !== undefined) return `process 1 has ${word}`;
  for (const [kind, inode, says] of INITIAL_NAMESPACES) {
    const link = s.namespaceOf(kind);
    if (link !== undefined && link !== `${kind}:[${inode}]`) return says;
  }
  return undefined;
}

/** The type of the trees that a twin is mounted as (hosts/fuse). */
const TWIN_TYPE = 'fuse.dimmer';

/** Why a kernel file below `root` must not be written; undefined when it may be. `file` as on the machine: "/sys/...". */
export function whyNotWritable(root: string, file: string, s: Surroundings): HostFailure | undefined {
  const place = path.join(root, file);
  const mount = coveringMount(parseMounts(s.mountinfo), place);
  if (mount === undefined)
    return denied(`nothing is known to be mounted under ${place}: /proc/self/mountinfo is missing`);
  const wants = file.startsWith('/sys/') ? 'sysfs' : 'proc';
  if (mount.type !== wants && !(root !== '/' && mount.type === TWIN_TYPE))
    return denied(
      root === '/'
        ? `${mount.at} has ${mount.type} mounted over it, which is not the kernel's own tree`
        : `${root} is ${mount.type}, a copy of a machine and not one: it would take every write and change nothing`,
    );
  if (mount.readOnly) return denied(`${mount.at} is mounted read-only; nothing can be changed through it`);
  return undefined;
}

type MountSeen = { readonly at: string; readonly type: string; readonly readOnly: boolean };

/** /proc/self/mountinfo: id parent dev root AT OPTIONS [optional...] - TYPE source SUPER-OPTIONS */
function parseMounts(text: string): MountSeen[] {
  const mounts: MountSeen[] = [];
  for (const line of text.split('\n')) {
    const [left, right] = line.split(' - ');
    const [, , , , at, options] = left?.split(' ') ?? [];
    const [type, , superOptions] = right?.split(' ') ?? [];
    if (at === undefined || options === undefined || type === undefined) continue;
    const readOnly = isReadOnly(options) || isReadOnly(superOptions ?? '');
    mounts.push({ at: unescapePath(at), type, readOnly });
  }
  return mounts;
}

const isReadOnly = (options: string): boolean => options.split(',').includes('ro');

const unescapePath = (text: string): string =>
  text.replace(/\\([0-7]{3})/g, (_, octal: string) => String.fromCharCode(Number.parseInt(octal, 8)));

/** The last of those that cover the file: lines come in the order of mounting, and what comes later lies on top. */
const coveringMount = (mounts: readonly MountSeen[], file: string): MountSeen | undefined =>
  mounts.findLast((m) => m.at === '/' || file === m.at || file.startsWith(`${m.at}/`));

const denied = (sentence: string): HostFailure => ({ kind: 'denied', sentence });
const unsupported = (sentence: string): HostFailure => ({ kind: 'unsupported', sentence });
