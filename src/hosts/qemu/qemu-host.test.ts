// A QEMU guest as a Host, on a made-up QEMU and agent.

import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import type { Host } from '#control/host';
import { observe } from '#plan/observation';
import type { Action } from '#plan/plan';
import { fakeMachine } from '../../../test/support/fake-machine.ts';
import { parseBatch } from './guest-files-batch.ts';
import { CLOCK, FakeGuest, FakeQemu, LIMITS } from './qemu-host.cases.ts';
import { qemuHost } from './qemu-host.ts';

const GiB = 2 ** 30;
const MEMORY = '/sys/devices/system/memory';
const NODES = '/sys/devices/system/node';

/** The recorded guest: blocks 0 to 15, 32 to 39 of virtio-mem ..., and the DIMM at 6 GiB, blocks 48 and 49. */
function recordedGuest(): FakeGuest {
  const golden = parseBatch(
    readFileSync(new URL('../../../test/golden/qemu/observe-6.1.txt', import.meta.url), 'utf8'),
    '',
  );
  if (golden === undefined) throw new Error('the recorded output is whole');
  const pool = `${NODES}/node1/hugepages/hugepages-2048kB/nr_hugepages`;
  return new FakeGuest(
    new Map<string, string | undefined>([
      ...golden.names.map((path) => [path, undefined] as const),
      ...golden.texts,
      [`${NODES}/online`, '0-1\n'],
      [`${NODES}/node1/compact`, undefined],
      [pool, golden.texts.get(pool) ?? '0\n'],
      ['/proc/sys/vm/compact_memory', undefined],
      ['/proc/sys/vm/drop_caches', '0\n'],
    ]),
  );
}

function hostOf(
  guest: FakeGuest | undefined = recordedGuest(),
  qemu = new FakeQemu(),
): {
  host: Host;
  guest: FakeGuest | undefined;
  qemu: FakeQemu;
} {
  const host = qemuHost({ name: 'qemu:fake', monitor: qemu, ...(guest && { agent: guest }), clock: CLOCK });
  return { host, guest, qemu };
}

const ACTIONS: readonly Action[] = [
  { do: 'offline-block', block: 48 },
  { do: 'online-block', block: 49, zone: 'movable' },
  { do: 'add-dimm', id: 'd', memdev: 'mem-d', bytes: GiB, node: 1, addr: 0x200000000 },
  { do: 'remove-dimm', id: 'd', memdev: 'mem-d' },
  { do: 'resize-virtio-mem', id: 'vm0', bytes: 0 },
  { do: 'balloon', bytes: GiB },
  { do: 'drop-caches', what: 3 },
  { do: 'compact' },
  { do: 'set-hugepages', node: 1, pageBytes: 2 ** 21, pages: 10 },
  { do: 'auto-online', word: 'online_movable' },
];

const VIRTIO_MEM = {
  id: 'vm0',
  memaddr: 0x100000000,
  node: 1,
  'requested-size': 0,
  size: 0,
  'max-size': GiB,
  'block-size': 2 ** 21,
  memdev: '/objects/vmb0',
};

describe('a QEMU guest as a Host', () => {
  it('QH50 what it can do follows from what is there; each that it cannot has its reason', async () => {
    const whole = hostOf();
    whole.qemu.devices.push({ type: 'virtio-mem', data: { id: 'vm0' } });
    const info = await whole.host.info(LIMITS);
    if (!info.ok) throw new Error(info.error.sentence);
    expect(info.value.kernel).toBe('6.1.0-56-amd64');
    expect([...info.value.can].sort()).toEqual(ACTIONS.map((a) => a.do).sort());
    expect(info.value.cannot.size).toBe(0);

    const bare = new FakeQemu();
    bare.balloon = undefined;
    bare.machine = { size: 2 * GiB, slots: 0, 'max-size': 2 * GiB };
    const little = await qemuHost({ name: 'qemu:fake', monitor: bare, clock: CLOCK }).info(LIMITS);
    if (!little.ok) throw new Error(little.error.sentence);
    expect([...little.value.can]).toEqual([]);
    expect([...little.value.cannot.keys()].sort()).toEqual(ACTIONS.map((a) => a.do).sort());
    expect(little.value.cannot.get('add-dimm')).toContain('maxmem');
    expect(little.value.cannot.get('offline-block')).toContain('agent=SOCKET');

    const mute = recordedGuest();
    for (const verb of ['guest-exec', 'guest-file-write']) mute.off.add(verb);
    const read = await hostOf(mute).host.info(LIMITS);
    expect(read.ok && read.value.can.has('remove-dimm')).toBe(true);
    expect(read.ok && read.value.cannot.get('offline-block')).toContain('guest-exec');

    expect(info.value.notes).toEqual([]);
    const byFile = recordedGuest();
    byFile.off.add('guest-exec');
    const slow = await hostOf(byFile).host.info(LIMITS);
    expect(slow.ok && slow.value.can.has('offline-block')).toBe(true);
    expect(slow.ok && slow.value.notes).toMatchObject([
      { action: 'offline-block', sentence: /no deadline in the guest/ },
    ]);
    const behind = await qemuHost({ name: 'libvirt:web1', monitor: new FakeQemu(), clock: CLOCK }).info(LIMITS);
    expect(behind.ok && behind.value.notes?.map((n) => n.action)).toEqual(['add-dimm', 'remove-dimm']);
  });

  it('QH51 an observation is of the guest and of QEMU; a captured bundle holds the same', async () => {
    const { host, qemu } = hostOf();
    qemu.dimm('dimm1', 0x180000000, GiB / 4);
    const seen = await host.observe(LIMITS);
    if (!seen.ok) throw new Error(seen.error.sentence);
    expect(seen.value.hypervisor?.dimms.map((d) => d.id)).toEqual(['dimm1']);
    expect(seen.value.blocks.find((b) => b.id === 48)?.zone).toBe('Movable');

    const machine = fakeMachine();
    machine.files.set('/proc/meminfo', 'MemTotal: 393216 kB\nMemFree: 12000 kB\n');
    machine.files.set(
      '/proc/buddyinfo',
      'Node 0, zone    DMA32      1      0      0      0      0      0      0      0      0      0      2\n',
    );
    const captured = await hostOf(new FakeGuest(machine.files), qemu).host.capture(LIMITS);
    if (!captured.ok) throw new Error(captured.error.sentence);
    expect(captured.value.origin).toEqual({ kind: 'guest', name: 'qemu:fake', takenAt: CLOCK.stamp() });
    const again = observe(captured.value.tree);
    expect(again.ok && again.value.hypervisor).toEqual(seen.value.hypervisor);
  });

  it('QH52 each action is one write of the right word to the right file, or one request', async () => {
    const { host, guest, qemu } = hostOf();
    qemu.devices.push({ type: 'virtio-mem', data: VIRTIO_MEM });
    const zones: Action[] = (['kernel', 'default'] as const).map((zone) => ({ do: 'online-block', block: 49, zone }));
    const pools: Action[] = [
      { do: 'compact', node: 1 },
      { do: 'set-hugepages', pageBytes: 2 ** 30, pages: 1 },
    ];
    for (const action of [...ACTIONS, ...zones, ...pools]) {
      if (action.do === 'remove-dimm') qemu.dimm('d2', 0x300000000, GiB);
      const done = await host.act(
        action.do === 'remove-dimm' ? { ...action, id: 'd2', memdev: 'mem-d2' } : action,
        LIMITS,
      );
      expect(done.ok || done.error.sentence, JSON.stringify(action)).toBe(true);
    }
    expect(guest?.writes).toEqual([
      `${MEMORY}/memory48/state offline`,
      `${MEMORY}/memory49/state online_movable`,
      '/proc/sys/vm/drop_caches 3',
      '/proc/sys/vm/compact_memory 1',
      `${NODES}/node1/hugepages/hugepages-2048kB/nr_hugepages 10`,
      `${MEMORY}/auto_online_blocks online_movable`,
      `${MEMORY}/memory49/state online_kernel`,
      `${MEMORY}/memory49/state online`,
      `${NODES}/node1/compact 1`,
      '/sys/kernel/mm/hugepages/hugepages-1048576kB/nr_hugepages 1',
    ]);
    const programs = guest?.requests.filter((r) => r.command === 'guest-exec').map((r) => r.args?.path);
    expect(programs?.indexOf('sync')).toBeGreaterThan(0);
    expect(qemu.commands().filter((c) => /^(object|device|qom-set|balloon)/.test(c))).toEqual([
      'object-add',
      'device_add',
      'device_del',
      'object-del',
      'qom-set',
      'balloon',
    ]);
  });

  it('QH53 a DIMM with an online block is not taken out; with all of them offline it is', async () => {
    const { host, guest, qemu } = hostOf();
    qemu.dimm('dimm1', 0x180000000, GiB / 4);
    const action: Action = { do: 'remove-dimm', id: 'dimm1', memdev: 'mem-dimm1' };
    const refused = await host.act(action, LIMITS);
    expect(!refused.ok && refused.error.evidence).toEqual(['block 48 online']);
    guest?.files.set(`${MEMORY}/memory48/state`, 'going-offline\n');
    expect((await host.act(action, LIMITS)).ok).toBe(false);
    expect(qemu.commands()).not.toContain('device_del');
    guest?.files.set(`${MEMORY}/memory48/state`, 'offline\n');
    expect((await host.act(action, LIMITS)).ok).toBe(true);
  });

  it('QH54 observing and capturing change nothing', async () => {
    const { host, guest, qemu } = hostOf(new FakeGuest(fakeMachine().files));
    await host.info(LIMITS);
    await host.observe(LIMITS);
    await host.capture(LIMITS);
    expect(guest?.writes).toEqual([]);
    expect(guest?.commands().filter((c) => c === 'guest-file-write')).toEqual([]);
    expect(qemu.commands().filter((c) => !/^(query-|qom-get)/.test(c))).toEqual([]);
  });

  it('QH55 after close every request fails as closed; a signal that came before begins nothing', async () => {
    const { host, guest, qemu } = hostOf();
    const gone = await host.act(ACTIONS[0], { deadlineMs: 1000, signal: AbortSignal.abort() });
    expect(!gone.ok && gone.error.kind).toBe('cancelled');
    expect(guest?.requests).toEqual([]);
    await host.close();
    const asked = [
      host.info(LIMITS),
      host.observe(LIMITS),
      host.capture(LIMITS),
      ...ACTIONS.map((a) => host.act(a, LIMITS)),
    ];
    for (const outcome of await Promise.all(asked)) expect(!outcome.ok && outcome.error.kind).toBe('closed');
    expect(qemu.requests).toEqual([]);
  });

  it("QH56 events are lines with QEMU's time, a cut is a line, and the signal ends it", async () => {
    const { host, qemu } = hostOf();
    const lines: string[] = [];
    const stop = new AbortController();
    const watching = host.watch((line) => lines.push(line), stop.signal);
    qemu.say('BALLOON_CHANGE', { actual: GiB });
    qemu.log.push({ cut: 'the connection broke: events may have been missed' });
    await new Promise((resolve) => setTimeout(resolve, 20));
    qemu.say('MEMORY_DEVICE_SIZE_CHANGE', { id: 'vm0', size: 0 });
    await new Promise((resolve) => setTimeout(resolve, 20));
    stop.abort();
    await watching;
    expect(lines.slice(1)).toEqual([
      '2026-11-20T20:40:21.344Z BALLOON_CHANGE {"actual":1073741824}',
      '2026-11-21T12:00:00.000Z the connection broke: events may have been missed',
      '2026-11-20T20:40:21.344Z MEMORY_DEVICE_SIZE_CHANGE {"id":"vm0","size":0}',
    ]);
    expect(lines[0]).toContain('cannot be seen from outside');
  });

  it('QH57 an agent that does not answer leaves the hypervisor side; a plan is not made on half a machine', async () => {
    const guest = recordedGuest();
    guest.cut = () => ({ kind: 'unreachable', sentence: 'the agent does not answer' });
    const { host } = hostOf(guest);
    const info = await host.info(LIMITS);
    expect(info.ok && info.value.can.has('add-dimm')).toBe(true);
    expect(info.ok && info.value.cannot.get('remove-dimm')).toContain('does not answer');
    for (const outcome of [await host.observe(LIMITS), await host.capture(LIMITS), await host.act(ACTIONS[0], LIMITS)])
      expect(!outcome.ok && outcome.error.kind).toBe('unreachable');
    const blind = recordedGuest();
    for (const verb of ['guest-exec', 'guest-file-open']) blind.off.add(verb);
    for (const outcome of [await hostOf(blind).host.observe(LIMITS), await hostOf(blind).host.capture(LIMITS)])
      expect(!outcome.ok && outcome.error.kind).toBe('denied');
  });
});
