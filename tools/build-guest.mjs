// A Debian guest for test/qemu: a real kernel, and an initramfs of its modules, busybox, the guest agent and perl.
//
//   node tools/build-guest.mjs      builds it, or says what is missing; exit 0 (DIMMER_QEMU=require: 1 when something is missing)
//
//   qemu-system-x86     in PATH, else apt-get install (root)
//   linux-image-6.1.0-* ┐
//   busybox-static      ├ apt-get download ──> dpkg-deb -x ──> node_modules/.cache/dimmer-guest/PACKAGE, renamed when whole
//   qemu-guest-agent    ┘
//   perl, C library     this machine's own, with the libraries that the loader names
//       └──> tools/guest/{init,agent,load} + modules in order of need ──> initrd-HASH.cpio
//
// Packages are unpacked, never installed, and nothing of them runs here but the loader's list of libraries. The archive is not
// compressed: unpacking it under emulation would cost more than reading it. HASH is over all that goes in, so that a change of
// any part makes a new archive and an unchanged one is found again. Each step has a time limit. What cannot be had is a reason.

import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  realpathSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { writeCpio } from './guest/cpio.mjs';
import { modulesFor } from './guest/modules.mjs';

const CACHE = fileURLToPath(new URL('../node_modules/.cache/dimmer-guest/', import.meta.url));
const PARTS = fileURLToPath(new URL('./guest/', import.meta.url));

/** Debian's name of the kernel that the lane is written for; the newest of them that apt offers. */
const KERNEL = /^linux-image-6\.1\.0-(\d+)-amd64$/;

/** crc32c first: ext4 asks for it by an alias that only modprobe could resolve. */
const MODULES = [
  'virtio_pci',
  'virtio_console',
  'virtio_blk',
  'crc32c_generic',
  'libcrc32c',
  'ext4',
  'virtio_balloon',
  'virtio_mem',
];

const STEP_MS = 300_000;

const run = (command, args, cwd) => spawnSync(command, args, { cwd, encoding: 'utf8', timeout: STEP_MS });
const lastLine = ({ stderr, error }) =>
  error?.message ?? ((stderr ?? '').trim().split('\n').pop() || 'no reason given');

/** @returns where it is in PATH (sbin too), or undefined */
function inPath(name) {
  const path = [...(process.env.PATH ?? '').split(':'), '/usr/sbin', '/sbin'];
  return path.map((d) => join(d, name)).find((f) => existsSync(f));
}

let updated = false;

/** Does it; and when it fails and nobody has done so yet, as root, fetches the package lists and does it again. */
function withLists(attempt) {
  const first = attempt();
  if (first.status === 0 || updated || process.getuid?.() !== 0) return first;
  updated = true;
  run('apt-get', ['update', '-qq']);
  return attempt();
}

/** @returns { dir } of the unpacked package, or { why } not */
function unpack(name) {
  const dir = join(CACHE, name);
  if (existsSync(dir)) return { dir };
  if (inPath('apt-get') === undefined || inPath('dpkg-deb') === undefined)
    return { why: `${name}: there is no apt-get to fetch it with` };
  mkdirSync(CACHE, { recursive: true });
  const box = mkdtempSync(join(CACHE, 'unpacking-'));
  try {
    const done = withLists(() => run('apt-get', ['download', '-qq', name], box));
    const deb = readdirSync(box).find((f) => f.endsWith('.deb'));
    if (done.status !== 0 || deb === undefined) return { why: `${name}: apt-get download failed: ${lastLine(done)}` };
    const unpacked = run('dpkg-deb', ['-x', deb, 'tree'], box);
    if (unpacked.status !== 0) return { why: `${name}: ${deb} could not be unpacked: ${lastLine(unpacked)}` };
    try {
      renameSync(join(box, 'tree'), dir);
    } catch (error) {
      if (!existsSync(dir)) return { why: `${name}: it could not be kept: ${error.message}` }; // else: somebody was faster
    }
    return { dir };
  } finally {
    rmSync(box, { recursive: true, force: true });
  }
}

const newest = (names) =>
  names
    .filter((n) => KERNEL.test(n))
    .sort((a, b) => Number(KERNEL.exec(a)[1]) - Number(KERNEL.exec(b)[1]))
    .pop();

/** The kernel package's name: an unpacked one, else the newest that apt offers. */
function kernelPackage() {
  const kept = existsSync(CACHE) ? newest(readdirSync(CACHE)) : undefined;
  if (kept !== undefined) return kept;
  if (inPath('apt-cache') === undefined) return undefined;
  const search = () => {
    const found = run('apt-cache', ['search', '--names-only', '^linux-image-6\\.1\\.0-[0-9]+-amd64$']);
    const names = (found.stdout ?? '').split('\n').map((l) => l.split(' ')[0]);
    return { ...found, status: newest(names) === undefined ? 1 : 0, name: newest(names) };
  };
  return withLists(search).name;
}

function findQemu() {
  const name = 'qemu-system-x86_64';
  if (inPath(name) === undefined && inPath('apt-get') !== undefined && process.getuid?.() === 0) {
    withLists(() => run('apt-get', ['install', '-y', '-qq', '--no-install-recommends', 'qemu-system-x86']));
  }
  return inPath(name);
}

/** Libraries that the loader would take for these programs: [[path in the guest, file here]]; or the names it does not find. */
function librariesOf(programs) {
  const found = new Map();
  const missing = new Set();
  for (const program of programs) {
    const listed = run('ldd', [program]);
    for (const line of (listed.stdout ?? '').split('\n')) {
      const named = /^\s*(\S+) => (\/\S+)/.exec(line) ?? /^\s*(\/\S+)()/.exec(line);
      if (named !== null) found.set(named[2] || named[1], realpathSync(named[2] || named[1]));
      const lost = /^\s*(\S+) => not found/.exec(line);
      if (lost !== null) missing.add(lost[1]);
    }
  }
  return { found, missing: [...missing] };
}

/** Everything that goes into the archive, by path in the guest. */
function guestFiles({ kernelDir, busybox, agent, perl, libraries }) {
  const files = new Map();
  const program = (path, file) => files.set(path, { data: readFileSync(file), program: true });
  program('/bin/busybox', busybox);
  program('/usr/sbin/qemu-ga', agent);
  program('/usr/bin/perl', perl);
  for (const [path, file] of libraries) program(path, file);
  // The one module that tools/guest/load uses; "glob" and the like would need compiled ones.
  const strict = run(perl, ['-Mstrict', '-e', 'print $INC{"strict.pm"}']).stdout;
  if (strict !== '') files.set(strict, { data: readFileSync(strict) });
  program('/init', join(PARTS, 'init'));
  program('/bin/agent', join(PARTS, 'agent'));
  program('/bin/load', join(PARTS, 'load'));
  files.set('/bin/sh', { link: 'busybox' });
  files.set('/dev/console', { device: [5, 1] });
  files.set('/etc/passwd', { data: Buffer.from('root:x:0:0:root:/:/bin/sh\n') });
  files.set('/etc/group', { data: Buffer.from('root:x:0:\n') });
  const lib = [join(kernelDir, 'lib/modules'), join(kernelDir, 'usr/lib/modules')].find((d) => existsSync(d));
  const modules = modulesFor(join(lib, readdirSync(lib)[0]), MODULES);
  for (const { name, data } of modules) files.set(`/modules/${name}.ko`, { data });
  files.set('/modules/order', { data: Buffer.from(modules.map((m) => `${m.name}\n`).join('')) });
  return files;
}

/**
 * Finds or makes the guest. Cost: a second when the packages are there, else a download of about 70 MB, bounded in time.
 * @returns { qemu, kernel, initrd, version, notes } or { why }: a line for each thing that is missing
 */
export function buildGuest() {
  if (process.platform !== 'linux' || process.arch !== 'x64') return { why: ['this is not Linux on x86-64'] };
  const why = [];
  const need = (value, reason) => {
    if (value === undefined) why.push(reason);
    return value;
  };
  const qemu = need(findQemu(), 'qemu-system-x86_64: not in PATH, and it could not be installed');
  const perl = need(inPath('perl'), 'perl: not in PATH (Debian: perl-base)');
  need(inPath('ldd'), 'ldd: not in PATH (Debian: libc-bin)');
  const name = need(kernelPackage(), 'linux-image-6.1.0-*-amd64: apt offers none');
  const [kernel, busybox, agent] = [name, 'busybox-static', 'qemu-guest-agent'].map((p) => {
    if (p === undefined) return undefined;
    const unpacked = unpack(p);
    if (unpacked.why !== undefined) why.push(unpacked.why);
    return unpacked.dir;
  });
  if (why.length > 0) return { why };
  const own = (dir, ...paths) => paths.map((p) => join(dir, p)).find((f) => existsSync(f));
  const programs = {
    busybox: need(own(busybox, 'usr/bin/busybox', 'bin/busybox'), 'busybox-static: no busybox in it'),
    agent: need(own(agent, 'usr/sbin/qemu-ga', 'usr/bin/qemu-ga'), 'qemu-guest-agent: no qemu-ga in it'),
  };
  if (why.length > 0) return { why };
  const { found: libraries, missing } = librariesOf([programs.agent, perl]);
  if (missing.length > 0) return { why: missing.map((l) => `${l}: qemu-ga needs it and it is not on this machine`) };
  const boot = join(kernel, 'boot');
  const vmlinuz = readdirSync(boot).find((f) => f.startsWith('vmlinuz-'));
  if (vmlinuz === undefined) return { why: [`${name}: no vmlinuz in it`] };
  const archive = writeCpio(guestFiles({ kernelDir: kernel, ...programs, perl: realpathSync(perl), libraries }));
  const hash = createHash('sha256').update(archive).digest('hex');
  const initrd = join(CACHE, `initrd-${hash.slice(0, 16)}.cpio`);
  const notes = [`${name}, initramfs of ${archive.length} bytes, sha256 ${hash}`];
  if (!existsSync(initrd)) {
    const part = `${initrd}.${process.pid}`;
    writeFileSync(part, archive);
    renameSync(part, initrd);
  }
  return { qemu, kernel: join(boot, vmlinuz), initrd, version: vmlinuz.replace('vmlinuz-', ''), notes };
}

/** A line for each thing that is missing, as it is told. */
export const skippedLines = (why) => why.map((w) => `SKIPPED: test/qemu: ${w}`);

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) {
  const guest = buildGuest();
  for (const line of guest.why === undefined ? guest.notes : skippedLines(guest.why)) console.log(line);
  if (guest.why !== undefined && process.env.DIMMER_QEMU === 'require') process.exitCode = 1;
}
