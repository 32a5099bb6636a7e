// The twin host: what the port promises, on a machine that is made up. Rules in docs/spec/executor.md.

import { describe, expect, it } from 'vitest';
import { Prng } from '#base/prng';
import { QMP_FILES } from '#plan/observation';
import type { Action } from '#plan/plan';
import { D1, DIMM, fill, MIB, seen, stateOf, twinWorld, VM0 } from '../../../test/support/twin-world.ts';
import { VirtualClock } from './virtual-clock.ts';

const limits = { deadlineMs: 1000 };
const again: Action = { do: 'add-dimm', id: 'd2', memdev: 'mem-d2', bytes: 128 * MIB, node: 1, addr: 0x150000000 };

describe('twin host', () => {
  it('TH1 observes through the same code as other hosts, and changes nothing', async () => {
    const host = twinWorld({ virtioMem: [VM0], balloon: true });
    const digest = host.machine.digest();
    const o = await host.observe(limits);
    expect(o).toEqual({ ok: true, value: seen(host) });
    expect(o.ok && o.value.hypervisor).toMatchObject({
      baseBytes: 384 * MIB,
      pluggedBytes: DIMM.bytes,
      balloonBytes: 384 * MIB,
      slots: { total: 16, used: [0] },
      dimms: [{ id: 'd1', addr: DIMM.addr, size: DIMM.bytes, node: 1, slot: 0, memdev: 'mem-d1' }],
      virtioMem: [{ id: 'vm0', requested: 0, size: 0, maxSize: VM0.maxBytes, blockSize: 2 * MIB }],
      status: 'running',
    });
    expect(host.machine.digest()).toBe(digest);
  });

  it('TH2 without a hypervisor it is a Linux host: no devices are seen, and asking for one touches nothing', async () => {
    const host = twinWorld({ hypervisor: 'none' });
    const before = host.machine.digest();
    const info = await host.info(limits);
    expect(info.ok && info.value.cannot.get('remove-dimm')).toBe('there is no hypervisor to ask');
    expect(await host.act({ do: 'remove-dimm', id: 'd1', memdev: 'm' }, limits)).toMatchObject({
      error: { kind: 'unsupported' },
    });
    expect(seen(host).hypervisor).toBeUndefined();
    expect(host.machine.digest()).toBe(before);
  });

  it('TH3 after close every request fails as closed', async () => {
    const host = twinWorld();
    await host.close();
    for (const reply of [
      await host.info(limits),
      await host.observe(limits),
      await host.act({ do: 'compact' }, limits),
      await host.capture(limits),
    ]) {
      expect(reply).toMatchObject({ ok: false, error: { kind: 'closed' } });
    }
  });

  it('TH4 QEMU refuses in its words, and nothing has changed', async () => {
    const host = twinWorld({ slots: 2, maxBytes: 768 * MIB });
    const before = stateOf(host);
    const words: readonly [Partial<Extract<Action, { do: 'add-dimm' }>>, string][] = [
      [{ id: 'd1' }, "Duplicate device ID 'd1'"],
      [{ memdev: 'mem-d1' }, "attempt to add duplicate property 'mem-d1' to object (type 'container')"],
      [{ addr: 0x150000001 }, 'address must be aligned to 0x200000 bytes'],
      [{ addr: 0x148000000 }, "address range conflicts with memory device id='d1'"],
      [{ bytes: 256 * MIB }, 'not enough space, currently 0x10000000 in use'],
    ];
    for (const [what, sentence] of words) {
      const reply = await host.act({ ...again, ...what } as Action, limits);
      expect(reply).toMatchObject({ error: { kind: 'refused', sentence } });
    }
    expect((await host.act(again, limits)).ok).toBe(true);
    expect(await host.act({ ...again, id: 'd3', memdev: 'm3' } as Action, limits)).toMatchObject({ ok: false });
    expect(stateOf(host).slice(0, before.length - 1)).toEqual(before.slice(0, -1));
    expect(await host.act({ do: 'resize-virtio-mem', id: 'x', bytes: 0 }, limits)).toMatchObject({
      error: { sentence: "Device 'x' not found" },
    });
  });

  it('TH5 a DIMM with a block that is not offline is not asked of the guest, which would re-zone the others', async () => {
    const host = twinWorld({ blocks: ['Normal', 'Movable'] });
    fill(host, D1, 'slab', 1);
    const before = stateOf(host);
    const reply = await host.act({ do: 'remove-dimm', id: DIMM.id, memdev: DIMM.memdev }, limits);
    expect(reply).toMatchObject({
      error: { kind: 'refused', errno: 'EBUSY', sentence: 'block 40 of DIMM d1 is online' },
    });
    expect(stateOf(host)).toEqual(before);
  });

  it('TH6 an offline whose answer is lost goes on in the guest: going-offline is seen, other writers wait, time ends it', async () => {
    const host = twinWorld();
    fill(host, D1, 'anonymous', 3000);
    host.faults = (call) => (call.verb === 'act' ? { fault: 'lose', when: 'midway' } : undefined);
    expect(await host.act({ do: 'offline-block', block: D1 }, limits)).toMatchObject({
      error: { kind: 'disconnected' },
    });
    expect(stateOf(host)).toContain('block 40 going-offline - node 1');
    host.faults = () => undefined;
    const other = await host.act({ do: 'offline-block', block: D1 + 1 }, limits);
    expect(other.ok).toBe(true);
    expect(stateOf(host).filter((l) => l.includes('offline -'))).toHaveLength(2);
    expect(host.check()).toEqual([]);
  });

  it('TH7 a refusal says the errno, and the kernel’s lines are its evidence', async () => {
    const host = twinWorld({ blocks: ['Normal', 'Normal'] });
    fill(host, D1, 'slab', 1);
    const reply = await host.act({ do: 'offline-block', block: D1 }, limits);
    expect(reply).toMatchObject({ error: { kind: 'refused', errno: 'EBUSY' } });
    expect(!reply.ok && reply.error.evidence?.join()).toContain('memory offlining');
    expect(await host.act({ do: 'online-block', block: D1, zone: 'movable' }, limits)).toMatchObject({
      error: { errno: 'EINVAL' },
    });
    expect(await host.act({ do: 'offline-block', block: 999 }, limits)).toMatchObject({ error: { errno: 'ENOENT' } });
  });

  it('TH8 the same calls at the same times give the same machine, the same clock and the same lines', async () => {
    const story = async (): Promise<string> => {
      const host = twinWorld({ virtioMem: [VM0], balloon: true });
      const lines: string[] = [];
      const control = new AbortController();
      void host.watch((line) => lines.push(line), control.signal);
      await host.act({ do: 'auto-online', word: 'online_movable' }, limits);
      await host.act({ do: 'resize-virtio-mem', id: 'vm0', bytes: 64 * MIB }, limits);
      await host.act({ do: 'balloon', bytes: 380 * MIB }, limits);
      host.clock.advance(500);
      await host.act({ do: 'offline-block', block: D1 }, limits);
      control.abort();
      expect(host.check()).toEqual([]);
      return [host.machine.digest(), host.clock.stamp(), ...lines].join('\n');
    };
    const first = await story();
    expect(await story()).toBe(first);
    expect(first).toContain('MEMORY_DEVICE_SIZE_CHANGE vm0 ');
  });

  it('TH9 watching ends with its signal', async () => {
    const host = twinWorld();
    const control = new AbortController();
    const lines: string[] = [];
    const watching = host.watch((line) => lines.push(line), control.signal);
    await host.act({ do: 'offline-block', block: 35 }, limits);
    const heard = lines.length;
    expect(heard).toBeGreaterThan(0);
    control.abort();
    await watching;
    await host.act({ do: 'offline-block', block: 34 }, limits);
    expect(lines.length).toBe(heard);
  });

  it('TH10 a capture of it has its page flags, blocks and the hypervisor’s replies', async () => {
    const host = twinWorld();
    const captured = await host.capture(limits);
    if (!captured.ok) throw new Error(captured.error.sentence);
    const { tree, kpageflags, problems } = captured.value;
    expect(tree.readText('/sys/devices/system/memory/memory40/state')).toBe('online\n');
    expect(tree.readText(QMP_FILES.devices)).toContain('"id":"d1"');
    expect(kpageflags?.endPfn).toBe((D1 + 2) * host.machine.blockPages);
    expect(problems.filter((p) => p.kind === 'torn' || p.kind === 'corrupt')).toEqual([]);
  });

  it('TH11 virtual time: what is due rings on its way, dates are of the calendar', async () => {
    const clock = new VirtualClock();
    const rang: number[] = [];
    clock.at(25, () => rang.push(clock.nowMs()));
    clock.at(1e9, () => rang.push(-1));
    await clock.sleep(100);
    expect([clock.nowMs(), ...rang]).toEqual([100, 30]);
    expect(clock.stamp()).toBe(new Date(100).toISOString());
    const control = new AbortController();
    control.abort();
    await clock.sleep(1000, control.signal);
    expect(clock.nowMs()).toBe(100);
    const prng = new Prng(11);
    for (let n = 0; n < 300; n++) {
      const ms = Math.floor((prng.next() / 2 ** 32) * 8e12); // until the year 2223, leap years and centuries among them
      expect(new VirtualClock(ms).stamp(), `seed=11 n=${n}`).toBe(new Date(ms).toISOString());
    }
  });
});
