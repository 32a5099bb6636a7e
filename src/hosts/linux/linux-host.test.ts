// The guard, the sentences of a writer that fails, and what is seen of blocks: all without writing anywhere.
// What writes is tried on a mounted machine: test/mount/linux-host.test.ts.

import * as fs from 'node:fs';
import * as os from 'node:os';
import * as path from 'node:path';
import { describe, expect, it, onTestFinished } from 'vitest';
import type { Capture } from '#capture/capture';
import { recordedTreeOf } from '#capture/gather';
import type { Clock } from '#control/host';
import { treeFromFiles } from '#kernfs/memory-tree';
import type { Action } from '#plan/plan';
import { fakeMachine } from '../../../test/support/fake-machine.ts';
import { containerMark, type Surroundings, surroundings, whyNotOurs, whyNotWritable } from './guard.ts';
import { linuxHost, writeOf } from './linux-host.ts';
import { readCapture } from './read-capture.ts';
import { failureOfChild, runChild, writerOf } from './sysfs-write.ts';
import { changes, kmsgLine, readStates, watchBlocks } from './uevents.ts';

const MOUNTS = `22 1 0:20 / / rw,relatime - ext4 /dev/vda rw
23 22 0:21 / /proc rw,nosuid - proc proc rw
24 22 0:22 / /sys rw,nosuid shared:1 - sysfs sysfs rw
25 22 0:33 / /mnt/t rw - fuse.dimmer dimmer-1-aa rw
`;
const INITIAL: Readonly<Record<string, string>> = {
  user: 'user:[4026531837]',
  pid: 'pid:[4026531836]',
  cgroup: 'cgroup:[4026531835]',
};

/** A plain host, root's; `other` is what is different. */
const seen = (other: Partial<Surroundings> = {}): Surroundings => ({
  platform: 'linux',
  uid: 0,
  mountinfo: MOUNTS,
  namespaceOf: (kind) => INITIAL[kind],
  exists: () => false,
  initEnvironment: 'HOME=/\0TERM=linux\0',
  ...other,
});
const STATE = '/sys/devices/system/memory/memory4/state';
const TABLE_CLOCK: Clock = { nowMs: () => 0, stamp: () => new Date(0).toISOString(), sleep: async () => {} };

describe('the guard', () => {
  it('LH7 a plain host of root’s may be written; each thing that is different refuses with its own sentence', () => {
    expect(whyNotOurs('/', seen())).toBeUndefined();
    expect(whyNotWritable('/', STATE, seen())).toBeUndefined();
    expect(whyNotWritable('/', '/proc/sys/vm/drop_caches', seen())).toBeUndefined();
    const said = [
      whyNotOurs('/', seen({ platform: 'darwin' })),
      whyNotOurs('/', seen({ uid: 1000 })),
      whyNotOurs('/', seen({ exists: (f) => f === '/.dockerenv' })),
      whyNotOurs('/', seen({ exists: (f) => f === '/run/.containerenv' })),
      whyNotOurs('/', seen({ initEnvironment: 'a=b\0container=lxc\0' })),
      whyNotOurs('/', seen({ namespaceOf: (k) => (k === 'pid' ? 'pid:[4026532999]' : INITIAL[k]) })),
      whyNotOurs('/', seen({ namespaceOf: (k) => (k === 'user' ? 'user:[4026532998]' : INITIAL[k]) })),
      whyNotOurs('/', seen({ namespaceOf: (k) => (k === 'cgroup' ? 'cgroup:[4026532997]' : INITIAL[k]) })),
      whyNotWritable('/', STATE, seen({ mountinfo: '' })),
      whyNotWritable('/', STATE, seen({ mountinfo: MOUNTS.replace('/sys rw', '/sys ro') })),
      whyNotWritable('/', STATE, seen({ mountinfo: MOUNTS.replace('sysfs sysfs rw', 'sysfs sysfs ro') })),
      whyNotWritable(
        '/',
        STATE,
        seen({ mountinfo: `${MOUNTS}30 24 0:40 / /sys/devices/system/memory rw - tmpfs t rw` }),
      ),
      whyNotWritable(
        '/',
        '/proc/sys/vm/drop_caches',
        seen({ mountinfo: `${MOUNTS}30 23 0:21 /sys /proc/sys ro - proc proc rw` }),
      ),
    ];
    expect(new Set(said.map((f) => f?.sentence)).size).toBe(said.length - 1); // read-only is said alike, whoever says ro
    expect(said.map((f) => `${f?.kind}: ${f?.sentence}`)).toMatchInlineSnapshot(`
      [
        "unsupported: there is no Linux here: only a Linux host has memory blocks to change",
        "denied: changing this machine needs root: run it with sudo",
        "denied: this is a container (/.dockerenv, of Docker): the machine's memory is changed from its host",
        "denied: this is a container (/run/.containerenv, of Podman): the machine's memory is changed from its host",
        "denied: this is a container (process 1 has container=lxc): the machine's memory is changed from its host",
        "denied: this is a container (a process-id namespace of its own): the machine's memory is changed from its host",
        "denied: this is a container (a user namespace of its own): the machine's memory is changed from its host",
        "denied: this is a container (a cgroup namespace of its own): the machine's memory is changed from its host",
        "denied: nothing is known to be mounted under /sys/devices/system/memory/memory4/state: /proc/self/mountinfo is missing",
        "denied: /sys is mounted read-only; nothing can be changed through it",
        "denied: /sys is mounted read-only; nothing can be changed through it",
        "denied: /sys/devices/system/memory has tmpfs mounted over it, which is not the kernel's own tree",
        "denied: /proc/sys is mounted read-only; nothing can be changed through it",
      ]
    `);
  });

  it('LH7 what is mounted later lies on top, whatever is longer; a twin only counts below a root of its own', () => {
    const over = `${MOUNTS}30 24 0:40 / /sys/devices/system/memory rw - fuse.dimmer dimmer-2 rw\n`;
    expect(whyNotWritable('/', STATE, seen({ mountinfo: over }))?.sentence).toMatch(/fuse.dimmer mounted over it/);
    const hidden = `${over}31 24 0:41 / /sys rw - sysfs sysfs rw\n`;
    expect(whyNotWritable('/', STATE, seen({ mountinfo: hidden }))).toBeUndefined();
    expect(whyNotWritable('/mnt/t', STATE, seen())).toBeUndefined();
    expect(whyNotWritable('/mnt', STATE, seen())?.sentence).toMatch(/^\/mnt is ext4, a copy of a machine/);
    const blank = '26 22 0:34 / /mnt/a\\040b rw - fuse.dimmer dimmer-3 rw\n';
    expect(whyNotWritable('/mnt/a b', STATE, seen({ mountinfo: MOUNTS + blank }))).toBeUndefined();
  });

  it('LH7 what the real surroundings say is understood', () => {
    const s = surroundings();
    expect(s.platform).toBe(process.platform);
    const mark = containerMark(s);
    expect(mark === undefined || mark.length > 0).toBe(true);
    if (process.platform === 'linux') expect(s.mountinfo).toContain(' - ');
  });
});

describe('the Linux host, where nothing is written', () => {
  const root = (): string => {
    const dir = fs.mkdtempSync(path.join(os.tmpdir(), 'dimmer-linux-host-'));
    onTestFinished(() => fs.rmSync(dir, { recursive: true, force: true }));
    return dir;
  };

  it('LH8 DIMMs, virtio-mem and the balloon are not its business, with or without apply', async () => {
    const host = linuxHost({ root: root(), clock: TABLE_CLOCK, apply: true, surroundings: () => seen() });
    const foreign: Action[] = [
      { do: 'add-dimm', id: 'd', memdev: 'm', bytes: 2 ** 30, node: 0, addr: 2 ** 32 },
      { do: 'remove-dimm', id: 'd', memdev: 'm' },
      { do: 'resize-virtio-mem', id: 'v', bytes: 0 },
      { do: 'balloon', bytes: 2 ** 30 },
    ];
    const info = await host.info({ deadlineMs: 1000 });
    if (!info.ok) throw new Error(info.error.sentence);
    for (const action of foreign) {
      expect(await host.act(action, { deadlineMs: 1000 })).toMatchObject({ ok: false, error: { kind: 'unsupported' } });
      expect(info.value.cannot.get(action.do)).toMatch(/hypervisor/);
      expect(writeOf(action).ok).toBe(false);
    }
  });

  it('LH8 a root without a machine: one sentence from observe and from capture; after close, closed', async () => {
    const host = linuxHost({ root: root(), clock: TABLE_CLOCK, apply: false });
    expect(await host.observe({ deadlineMs: 1000 })).toMatchObject({
      ok: false,
      error: { kind: 'protocol', sentence: expect.stringMatching(/there are no memory blocks/) },
    });
    expect(await host.capture({ deadlineMs: 1000 })).toMatchObject({ ok: false, error: { kind: 'unsupported' } });
    await host.close();
    const soon = { deadlineMs: 1000 };
    for (const answer of [host.info(soon), host.observe(soon), host.capture(soon)])
      expect(await answer).toMatchObject({ ok: false, error: { kind: 'closed' } });
    expect(await host.act({ do: 'compact' }, { deadlineMs: 1000 })).toMatchObject({
      ok: false,
      error: { kind: 'closed' },
    });
  });

  it('LH1 each action is one word into one file', () => {
    const of = (action: Action): string => {
      const w = writeOf(action);
      return w.ok ? `${w.value.word} > ${w.value.file}` : w.error;
    };
    const M = '/sys/devices/system/memory';
    expect([
      of({ do: 'online-block', block: 7, zone: 'movable' }),
      of({ do: 'online-block', block: 7, zone: 'kernel' }),
      of({ do: 'online-block', block: 7, zone: 'default' }),
      of({ do: 'set-hugepages', pageBytes: 2 ** 30, pages: 2 }),
      of({ do: 'set-hugepages', node: 1, pageBytes: 2 ** 21, pages: 512 }),
    ]).toEqual([
      `online_movable > ${M}/memory7/state`,
      `online_kernel > ${M}/memory7/state`,
      `online > ${M}/memory7/state`,
      '2 > /sys/kernel/mm/hugepages/hugepages-1048576kB/nr_hugepages',
      '512 > /sys/devices/system/node/node1/hugepages/hugepages-2048kB/nr_hugepages',
    ]);
  });
});

describe('a capture that others wait beside', () => {
  /** A directory as a capture of a small machine, with raw page files of `frames` frames. */
  const machine = (frames: number): string => {
    const dir = fs.mkdtempSync(path.join(os.tmpdir(), 'dimmer-linux-host-'));
    onTestFinished(() => fs.rmSync(dir, { recursive: true, force: true }));
    for (const [file, text] of fakeMachine().files) {
      fs.mkdirSync(path.join(dir, path.dirname(file)), { recursive: true });
      if (text !== undefined) fs.writeFileSync(path.join(dir, file), text);
    }
    const words = new BigUint64Array(frames).map((_, k) => (k % 100 === 0 ? 0x5828n : 0x400n));
    fs.writeFileSync(path.join(dir, 'proc/kpageflags'), new Uint8Array(words.buffer));
    return dir;
  };
  const host = (root: string, clock: Clock = TABLE_CLOCK) => linuxHost({ root, clock, apply: false });

  it('LH10 is what readCapture reads of the same files', async () => {
    const root = machine(3 * 32768 + 5);
    const patient = await host(root).capture({ deadlineMs: 1000 });
    const usual = readCapture(root, { now: () => new Date(0) });
    if (!patient.ok || !usual.ok) throw new Error('both read it');
    expect(usual.value.kpageflags?.endPfn).toBe(3 * 32768 + 5);
    expect(patient.value.kpageflags).toEqual(usual.value.kpageflags);
    expect(patient.value.problems).toEqual(usual.value.problems);
    const texts = (c: Capture): unknown => recordedTreeOf(c).files.map((f) => [f.path, f.kind, f.text]);
    expect(texts(patient.value)).toEqual(texts(usual.value));
  });

  it('LH10 gives others a turn, and ends at its deadline or signal', async () => {
    const root = machine(2 ** 20);
    let turns = 0;
    let over = false;
    const count = (): void => {
      turns++;
      if (!over) setImmediate(count);
    };
    setImmediate(count);
    expect((await host(root).capture({ deadlineMs: 1000 })).ok).toBe(true);
    over = true;
    expect(turns).toBeGreaterThanOrEqual(8); // a piece is a MiB

    let looks = 0;
    const late: Clock = { ...TABLE_CLOCK, nowMs: () => (looks++ < 40 ? 0 : 2000) };
    expect(await host(root, late).capture({ deadlineMs: 1000 })).toMatchObject({
      ok: false,
      error: { kind: 'timeout' },
    });
    const control = new AbortController();
    const pending = host(root).capture({ deadlineMs: 1000, signal: control.signal });
    control.abort();
    expect(await pending).toMatchObject({ ok: false, error: { kind: 'cancelled' } });
  });
});

describe('the writer', () => {
  it('LH4 is ended by timeout(1) a second after our own deadline, where there is one', () => {
    expect(writerOf('/f', 1500, true)).toEqual(['timeout', '3', 'dd', 'of=/f', 'bs=64', 'conv=notrunc']);
    expect(writerOf('/f', 1500, false)).toEqual(['dd', 'of=/f', 'bs=64', 'conv=notrunc']);
  });

  it('LH2 a sentence of dd is an errno, of GNU’s and of busybox; one that is none is told as it is', () => {
    const failed = (said: string): unknown => failureOfChild('writing', said, 1, null);
    expect(
      failed("dd: error writing '/s': Device or resource busy\n1+0 records in\n0+0 records out\n0 bytes copied, 1 s\n"),
    ).toEqual({
      kind: 'refused',
      errno: 'EBUSY',
      sentence: 'writing was refused by the kernel: EBUSY',
      evidence: ["dd: error writing '/s': Device or resource busy"],
    });
    expect(failed('dd: error writing /s: Resource busy\n')).toMatchObject({ kind: 'refused', errno: 'EBUSY' });
    expect(failed("dd: failed to open '/s': Permission denied\n")).toMatchObject({ kind: 'denied', errno: 'EACCES' });
    expect(failed("dd: failed to open '/s': Read-only file system\n")).toMatchObject({
      kind: 'denied',
      errno: 'EROFS',
    });
    expect(failed('Killed\n')).toEqual({
      kind: 'refused',
      sentence: 'writing failed: its process ended with 1',
      evidence: ['Killed'],
    });
    expect(failureOfChild('writing', '', null, 'SIGKILL').sentence).toMatch(/ended by SIGKILL/);
  });

  it('LH3 a program that is not there, one that does not end, and one that fails after the signal', async () => {
    expect(await runChild(['no-such-program-of-ours'], 'x', { deadlineMs: 1000 }, 'it')).toMatchObject({
      ok: false,
      error: { kind: 'unsupported' },
    });
    expect(await runChild(['sleep', '20'], '', { deadlineMs: 30 }, 'it')).toMatchObject({
      ok: false,
      error: { kind: 'timeout', sentence: expect.stringMatching(/after 30 ms: a signal ended it/) },
    });
    expect(await runChild(['true'], 'x', { deadlineMs: 5000 }, 'it')).toMatchObject({ ok: true });
  });
});

describe('what is seen', () => {
  const files = (states: Readonly<Record<number, string>>): Map<string, string> =>
    new Map(
      Object.entries(states).flatMap(([id, words]) => {
        const [state = '', zone = 'none'] = words.split(' ');
        const dir = `/sys/devices/system/memory/memory${id}`;
        return [[`${dir}/state`, `${state}\n`] as const, [`${dir}/valid_zones`, `${zone}\n`] as const];
      }),
    );

  it('LH9 blocks that change, come and go are a line each, ascending', () => {
    const before = readStates(
      treeFromFiles(files({ 9: 'online Normal', 10: 'online Movable', 11: 'offline', 2: 'online' })),
    );
    expect([...before]).toEqual([
      [2, 'online'],
      [9, 'online Normal'],
      [10, 'online Movable'],
      [11, 'offline'],
    ]);
    const after = readStates(
      treeFromFiles(files({ 9: 'going-offline', 10: 'online Movable', 2: 'online Normal', 100: 'offline' })),
    );
    expect(changes(before, after)).toEqual([
      'memory2 online -> online Normal',
      'memory9 online Normal -> going-offline',
      'memory11 is gone, was offline',
      'memory100 is new, offline',
    ]);
    expect(changes(after, after)).toEqual([]);
  });

  it('LH9 watch ends with its signal, also when that has come before', async () => {
    const lines: string[] = [];
    const control = new AbortController();
    let ticks = 0;
    const machine = files({ 1: 'online Normal' });
    const clock: Clock = {
      ...TABLE_CLOCK,
      sleep: async () => {
        if (++ticks === 2) machine.set('/sys/devices/system/memory/memory1/state', 'going-offline\n');
        if (ticks === 4) control.abort();
      },
    };
    const options = { tree: treeFromFiles(machine), clock, intervalMs: 7, onLine: (l: string) => void lines.push(l) };
    await watchBlocks({ ...options, signal: control.signal, kmsg: '/nonexistent/kmsg' });
    expect(lines).toEqual([
      'memory blocks are read every 7 ms; what is over sooner is not seen; /nonexistent/kmsg may not be read',
      'memory1 online Normal -> going-offline',
    ]);
    expect(ticks).toBe(4);
    await watchBlocks({ ...options, signal: control.signal });
    expect(ticks).toBe(4);
  });

  it('LH9 watch looks seldomer where looking takes long', async () => {
    const control = new AbortController();
    const slept: number[] = [];
    let nowMs = 0;
    const lines: string[] = [];
    await watchBlocks({
      tree: treeFromFiles(files({ 1: 'online Normal' })),
      clock: {
        ...TABLE_CLOCK,
        nowMs: () => (nowMs += 30),
        sleep: async (ms) => {
          slept.push(ms);
          control.abort();
        },
      },
      intervalMs: 7,
      onLine: (l) => void lines.push(l),
      signal: control.signal,
    });
    expect(slept).toEqual([600]);
    expect(lines).toEqual(['memory blocks are read every 600 ms; what is over sooner is not seen']);
  });

  it('LH9 of the kernel’s log, lines about memory hotplug are told, others are not', () => {
    expect(kmsgLine('6,1234,5678901,-;Offlined Pages 32768\n')).toBe('Offlined Pages 32768');
    expect(kmsgLine('4,99,1,-;migrating pfn 40000 failed ret:1024\n SUBSYSTEM=memory\n')).toBe(
      'migrating pfn 40000 failed ret:1024',
    );
    expect(kmsgLine('4,99,1,-,caller=T1;page dumped because: unmovable page\n')).toBe(
      'page dumped because: unmovable page',
    );
    expect(kmsgLine('6,1,1,-;eth0: link becomes ready\n')).toBeUndefined();
    expect(kmsgLine('Offlined Pages 1')).toBeUndefined();
  });
});
