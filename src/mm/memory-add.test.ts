// Adding memory: every refusal, what changes and what does not, nodes, auto-online, parts that are not backed. Rules in
// docs/spec/hotplug-life.md.

import { describe, expect, it } from 'vitest';
import { type NodeId, toBlockId, toNodeId, toOrder, toPfn } from '#base/units';
import type { LogLine, MachineEvent } from './events.ts';
import { MAX_PFN, PAGEBLOCK_PAGES, PAGES_PER_SECTION } from './geometry.ts';
import type { HotplugSettings } from './hotplug.ts';
import { AUTO_ONLINE } from './kernel-profile.ts';
import { Machine } from './machine.ts';
import type { MachineSpec } from './machine-spec.ts';
import type { AddOptions, MemoryRange } from './memory-add.ts';
import type { GroupId } from './memory-group.ts';
import { ZONE_MOVABLE } from './page-class.ts';
import { ERRNO_OF, type RefusalReason } from './refusal.ts';

const node0 = toNodeId(0);
const node1 = toNodeId(1);
const section = (n: number) => toPfn(n * PAGES_PER_SECTION);
const sections = (first: number, end: number): MemoryRange => ({ start: section(first), end: section(end) });

/** 1 GiB on node 0, blocks of 128 MiB. */
const boot = (hotplug: Partial<HotplugSettings> = {}, spec: Partial<MachineSpec> = {}): Machine =>
  Machine.boot({
    ram: [{ ...sections(0, 8), node: node0 }],
    blockSize: 2 ** 27,
    watermarks: 'none',
    code: 'shared',
    hotplug: { autoOnline: 'offline', ...hotplug },
    ...spec,
  });

const iomem = (m: Machine): string[] => {
  const out: string[] = [];
  m.hotplug.resources.forEach((r) => {
    out.push(`${r.start.toString(16)}-${r.end.toString(16)} : ${r.name}`);
  });
  return out;
};

/** Everything that a refusal must leave alone; only types of pageblocks may differ after memory was taken and given back. */
const tables = (m: Machine) => ({
  blocks: m.blockIds(),
  iomem: iomem(m),
  nodes: [...m.nodes],
  ranges: m.hotplug.ranges.map((r) => ({ ...r })),
  groups: m.hotplug.groups.get(0) && { ...m.hotplug.groups.get(0) },
  sections: m.sections.length,
  zonelists: m.zonelists.map((l) => [...l]),
  pools: m.pools.map((p) => [p.id, p.present, p.managed, p.startPfn, p.endPfn]),
  free: m.pools.map((p) => p.alloc.nrFree() + p.alloc.pcpPages()),
  members: m.holders.specs.map((_, h) => [m.holders.members[h], m.holders.pages[h]]).filter(([n]) => n > 0),
});

const add = (m: Machine, range: MemoryRange, node: NodeId, options?: AddOptions) => {
  const done = m.addMemory(range, node, options);
  if (!done.ok) throw new Error(done.error.message);
  return done.value;
};

type Row = {
  readonly name: string;
  readonly range: MemoryRange;
  readonly node?: NodeId;
  readonly options?: AddOptions;
  readonly reason: RefusalReason;
  readonly message: string;
  /** What the kernel logs, where it does. */
  readonly log?: LogLine;
};

const UNALIGNED = 'Block size [0x8000000] unaligned hotplug range: ';
const warn = (text: string): LogLine => ({ level: 'warn', text });

/** Spec 1.13, row by row, with the kernel's own words. */
const REFUSALS: readonly Row[] = [
  {
    name: 'start is not a multiple of the block size',
    range: { start: toPfn(0x100200), end: toPfn(0x108200) },
    reason: 'unaligned',
    message: `${UNALIGNED}start 0x100200000, size 0x8000000`,
    log: warn(`${UNALIGNED}start 0x100200000, size 0x8000000`),
  },
  {
    name: 'size is not a multiple of the block size',
    range: { start: section(32), end: toPfn(32 * PAGES_PER_SECTION + 1) },
    reason: 'unaligned',
    message: `${UNALIGNED}start 0x100000000, size 0x1000`,
    log: warn(`${UNALIGNED}start 0x100000000, size 0x1000`),
  },
  {
    name: 'size 0',
    range: sections(32, 32),
    reason: 'unaligned',
    message: `${UNALIGNED}start 0x100000000, size 0x0`,
    log: warn(`${UNALIGNED}start 0x100000000, size 0x0`),
  },
  {
    name: 'beyond what can be addressed',
    range: { start: toPfn(MAX_PFN - PAGES_PER_SECTION), end: toPfn(MAX_PFN + PAGES_PER_SECTION) },
    reason: 'out-of-range',
    message:
      'Hotplug memory [0xffffff8000000-0x10000008000000] exceeds maximum addressable range [0x0-0xfffffffffffff]',
    log: warn(
      'Hotplug memory [0xffffff8000000-0x10000008000000] exceeds maximum addressable range [0x0-0xfffffffffffff]',
    ),
  },
  {
    name: 'a busy resource has its addresses',
    range: sections(7, 9),
    reason: 'exists',
    message: 'Unable to reserve System RAM region: 0000000038000000->0000000048000000: System RAM has 0x0-0x3fffffff',
    log: { level: 'debug', text: 'Unable to reserve System RAM region: 0000000038000000->0000000048000000' },
  },
  {
    name: 'a node that is not possible',
    range: sections(32, 33),
    node: toNodeId(64),
    reason: 'bad-request',
    message: 'node 64 was absent from the node_possible_map',
    log: warn('node 64 was absent from the node_possible_map'),
  },
  {
    name: 'a group that is not there',
    range: sections(32, 33),
    options: { group: 7 as GroupId },
    reason: 'bad-request',
    message: 'there is no memory group 7 on node 0',
  },
  {
    name: 'a group of another node',
    range: sections(32, 33),
    node: node1,
    options: { group: 0 as GroupId },
    reason: 'bad-request',
    message: 'there is no memory group 0 on node 1',
  },
  {
    name: 'no memory for its struct pages',
    range: sections(32, 32 + 512), // 64 GiB want 1 GiB
    reason: 'no-memory',
    message: '',
  },
  ...['Persistent Memory', 'System RAM', 'System RAM (', 'System RAM kmem)', 'system RAM (kmem)', ''].map(
    (driverManaged): Row => ({
      name: `a driver's name that is not of the form: "${driverManaged}"`,
      range: sections(32, 33),
      options: { driverManaged },
      reason: 'bad-request',
      message: `"${driverManaged}" is not of the form "System RAM (driver)"`,
    }),
  ),
];

describe('AD1 AD2 refusals of add', () => {
  for (const { name, range, node, options, reason, message, log } of REFUSALS) {
    it(`AD1 AD2 ${name}: ${ERRNO_OF[reason]}, and nothing changes`, () => {
      const m = boot();
      m.hotplug.groups.register('static', node0, PAGES_PER_SECTION);
      const before = tables(m);
      const digest = m.digest();
      const lines: LogLine[] = [];
      m.onLog = (l) => lines.push(l);
      const events: MachineEvent[] = [];
      m.onEvent = (e) => events.push(e);
      const r = m.addMemory(range, node ?? node0, options);
      expect(r).toMatchObject({ ok: false, error: { reason, errno: ERRNO_OF[reason] } });
      if (message !== '') expect(r.ok || r.error.message).toBe(message);
      expect(lines).toEqual(log === undefined ? [] : [log]);
      expect(events).toEqual([]);
      expect(tables(m)).toEqual(before);
      if (reason !== 'no-memory') expect(m.digest()).toBe(digest);
      expect(m.check()).toEqual([]);
    });
  }

  it('AD1 AD2 a section that is present under free addresses: EEXIST', () => {
    const m = boot({}, { iomem: [] }); // nobody has any address
    const before = tables(m);
    expect(m.addMemory(sections(7, 9), node0)).toMatchObject({ error: { reason: 'exists', errno: 'EEXIST' } });
    expect(tables(m)).toEqual(before);
  });

  it('AD1 the order of the checks: name, reach, addresses, whole blocks, group, node', () => {
    const m = boot();
    const bad = { driverManaged: 'x', group: 9 as GroupId };
    const far = toNodeId(99);
    const beyond = { start: toPfn(1), end: toPfn(MAX_PFN + 1) };
    const unaligned = { start: toPfn(0x100001), end: toPfn(0x110000) };
    const reasons = [
      m.addMemory(beyond, far, bad),
      m.addMemory(beyond, far, { group: bad.group }),
      m.addMemory({ start: toPfn(1), end: toPfn(PAGES_PER_SECTION) }, far, { group: bad.group }),
      m.addMemory(unaligned, far, { group: bad.group }),
      m.addMemory(sections(32, 33), far, { group: bad.group }),
      m.addMemory(sections(32, 33), far),
    ].map((r) => (r.ok ? 'ok' : `${r.error.errno} ${r.error.message.slice(0, 22)}`));
    expect(reasons).toEqual([
      'EINVAL "x" is not of the form',
      'E2BIG Hotplug memory [0x1000',
      'EEXIST Unable to reserve Syst',
      'EINVAL Block size [0x8000000]',
      'EINVAL there is no memory gro',
      'EINVAL node 99 was absent fro',
    ]);
  });

  it('AD1 the last block that can be addressed can be added', () => {
    const m = boot();
    add(m, { start: toPfn(MAX_PFN - PAGES_PER_SECTION), end: toPfn(MAX_PFN) }, node0);
    const id = toBlockId(MAX_PFN / PAGES_PER_SECTION - 1);
    expect(m.online(id, 'movable').ok).toBe(true);
    expect(iomem(m).at(-1)).toBe('ffffff8000000-fffffffffffff : System RAM');
    expect(m.check()).toEqual([]);
  });
});

describe('what an add does', () => {
  it('AD3 blocks appear offline, in no zone; only its struct pages and page tables are taken from free memory', () => {
    const m = boot();
    const before = tables(m);
    const lines: MachineEvent[] = [];
    m.onEvent = (e) => lines.push(e);
    const report = add(m, sections(32, 40), node0);
    expect(report).toMatchObject({ blocks: [32, 33, 34, 35, 36, 37, 38, 39], memmap: 'kernel', onlined: [] });
    for (const id of report.blocks) expect(m.block(id)).toMatchObject({ state: 'offline', node: 0, pool: undefined });
    const after = tables(m);
    expect(after.pools).toEqual(before.pools);
    const taken = before.free.map((n, k) => n - after.free[k]).reduce((a, b) => a + b);
    expect(taken).toBe(report.kernelPages);
    expect(taken).toBeGreaterThanOrEqual(8 * PAGEBLOCK_PAGES); // a pageblock a section
    expect(taken).toBeLessThan(8 * PAGEBLOCK_PAGES + 8);
    expect(lines.map((e) => e.type)).toEqual(['add']);
    expect(iomem(m)).toEqual(['0-3fffffff : System RAM', '100000000-13fffffff : System RAM']);
    expect(m.check()).toEqual([]);
  });

  it('AD4 auto-online: each block by the word of the moment; a block that fails stays offline, the memory stays', () => {
    for (const autoOnline of AUTO_ONLINE) {
      const m = boot({ autoOnline });
      m.notifiers.push({ name: 'picky', goingOnline: (b) => (b === 33 ? 'EBUSY' : undefined) });
      const report = add(m, sections(32, 35), node0);
      const up = autoOnline === 'offline' ? [] : [32, 34];
      expect(report.onlined).toEqual(up);
      const zone = autoOnline === 'online_movable' ? 'Movable' : 'Normal';
      expect(report.blocks.map((b) => m.block(b)?.pool?.name)).toEqual(
        autoOnline === 'offline' ? [undefined, undefined, undefined] : [zone, undefined, zone],
      );
      m.hotplug.settings.autoOnline = 'online_kernel';
      expect(add(m, sections(40, 41), node0).onlined).toEqual([40]);
      expect(m.block(toBlockId(40))?.pool?.name).toBe('Normal');
      expect(m.check()).toEqual([]);
    }
  });

  it('AD4 the kernel profile brings its default: Debian 6.12 onlines, 6.1 and 6.18 do not', () => {
    const ram = [{ ...sections(0, 8), node: node0 }];
    for (const [kernel, n] of [
      ['6.1', 0],
      ['6.12', 1],
      ['6.18', 0],
    ] as const) {
      const m = Machine.boot({ ram, kernel, blockSize: 2 ** 27, code: 'shared' });
      expect(add(m, sections(32, 33), node0).onlined).toHaveLength(n);
      expect(m.check()).toEqual([]);
    }
  });

  it('AD5 parts that are not backed come online as never plugged: present, not managed, and stay through offline', () => {
    const m = boot();
    const MIB64 = PAGES_PER_SECTION / 2;
    const usable = [{ start: section(32), end: toPfn(section(32) + MIB64) }];
    add(m, sections(32, 34), node0, { usable });
    for (const k of [32, 33]) expect(m.online(toBlockId(k), 'movable').ok).toBe(true);
    const movable = m.poolNamed(node0, 'Movable');
    expect([movable?.present, movable?.managed]).toEqual([2 * PAGES_PER_SECTION, MIB64]);
    expect(m.check()).toEqual([]);
    for (const k of [33, 32]) expect(m.offline(toBlockId(k)).ok).toBe(true);
    expect([movable?.present, movable?.managed, movable?.spanned]).toEqual([0, 0, 0]);
    expect(m.check()).toEqual([]);
    expect(m.removeMemory(sections(32, 34)).ok).toBe(true);
    expect(m.check()).toEqual([]);
  });

  it('AD5 a block that hosts its memmap must be backed at its head: ENOSPC, and nothing changes', () => {
    const m = boot({ memmapOnMemory: 'Y' });
    const before = tables(m);
    const usable = [{ start: toPfn(section(32) + 1), end: section(33) }];
    const r = m.addMemory(sections(32, 33), node0, { memmap: 'self-block', usable });
    expect(r).toMatchObject({ error: { reason: 'not-backed', errno: 'ENOSPC' } });
    expect(tables(m)).toEqual(before);
    const head = [{ start: section(32), end: toPfn(section(32) + PAGEBLOCK_PAGES) }];
    add(m, sections(32, 33), node0, { memmap: 'self-block', usable: head });
    expect(m.online(toBlockId(32), 'movable').ok).toBe(true);
    const movable = m.poolNamed(node0, 'Movable');
    expect([movable?.present, movable?.managed]).toEqual([PAGES_PER_SECTION, 0]);
    expect(m.check()).toEqual([]);
  });

  it('AD6 memory of drivers keeps its name in iomem; lines join only where both asked', () => {
    const m = boot();
    const driverManaged = 'System RAM (kmem)';
    add(m, sections(32, 33), node0, { driverManaged, merge: true });
    add(m, sections(33, 34), node0, { driverManaged, merge: true });
    add(m, sections(34, 35), node0, { driverManaged });
    add(m, sections(35, 36), node0, { merge: true });
    expect(iomem(m).slice(1)).toEqual([
      '100000000-10fffffff : System RAM (kmem)',
      '110000000-117ffffff : System RAM (kmem)',
      '118000000-11fffffff : System RAM',
    ]);
  });

  it('AD7 60 GiB with 64 MiB free: `kernel` gets ENOMEM and leaves nothing behind, self-hosted memory comes', () => {
    const full = (hotplug: Partial<HotplugSettings>): Machine => {
      const m = boot(hotplug);
      const holder = m.addHolder({ class: 'slab', name: 'all but 64 MiB' });
      for (let n = 0; n < (1024 - 64) / 4; n++) expect(m.alloc(holder, toOrder(10))).toBeGreaterThanOrEqual(0);
      return m;
    };
    const sixty = sections(32, 32 + 480);
    const m = full({ memmapOnMemory: 'Y' });
    const free = (): number => m.pools.reduce((n, p) => n + p.alloc.nrFree() + p.alloc.pcpPages(), 0);
    expect(free()).toBe(64 * 256);
    const before = tables(m);
    const refused = m.addMemory(sixty, node0);
    expect(refused).toMatchObject({ ok: false, error: { reason: 'no-memory', errno: 'ENOMEM' } });
    expect(tables(m)).toEqual(before);
    expect(m.check()).toEqual([]);
    for (const memmap of ['self-block', 'self-range'] as const) {
      const copy = m.fork();
      const report = add(copy, sixty, node0, { memmap });
      expect([report.memmap, report.kernelPages < 100]).toEqual([memmap, true]);
      expect(report.blocks).toHaveLength(480);
      let managed = 0;
      for (const b of report.blocks) {
        const up = copy.online(b, 'movable');
        if (!up.ok) throw new Error(up.error.message);
        managed += up.value.pages;
      }
      expect(managed).toBe(480 * (PAGES_PER_SECTION - PAGEBLOCK_PAGES)); // 59.0625 GiB can be used
      expect(copy.check(1)).toEqual([]); // 15 million frames: every frame is looked at in smaller machines
    }
  });
});

describe('nodes', () => {
  it('ND1 a node comes with its first memory, offline as it is: pools, zonelists, an event', () => {
    const m = boot();
    const types: string[] = [];
    m.onEvent = (e) => types.push(e.type);
    add(m, sections(32, 34), node1);
    expect([...m.nodes]).toEqual([0, 1]);
    expect(types).toEqual(['node-online', 'add']);
    expect(m.poolNamed(node1, 'Normal')).toMatchObject({ present: 0, spanned: 0 });
    expect(m.poolNamed(node1, 'Movable')).toMatchObject({ present: 0, spanned: 0 });
    add(m, sections(34, 35), node1);
    expect(types).toEqual(['node-online', 'add', 'add']);
  });

  it('ND2 its zones are in the zonelists while they have memory, and requests reach it and fall back from it', () => {
    const m = boot();
    add(m, sections(32, 34), node1);
    const names = (node: NodeId): string[] => [...m.zonelist(node, ZONE_MOVABLE)].map((id) => m.pools[id].title);
    const boots = ['Node 0, zone DMA32', 'Node 0, zone DMA'];
    expect(names(node1)).toEqual(boots); // a node without memory that is online
    const user = m.addHolder({ class: 'anonymous', name: 'user', node: node1 });
    const fellBack = m.alloc(user, toOrder(0));
    expect(fellBack).toBeLessThan(section(8));
    expect(m.online(toBlockId(32), 'movable').ok).toBe(true);
    expect(m.online(toBlockId(33), 'kernel').ok).toBe(true);
    expect(names(node1)).toEqual(['Node 1, zone Movable', 'Node 1, zone Normal', ...boots]);
    expect(names(node0)).toEqual([...boots, 'Node 1, zone Movable', 'Node 1, zone Normal']);
    const pfn = m.alloc(user, toOrder(0));
    expect([pfn >= section(32), pfn < section(33)]).toEqual([true, true]);
    const kernel = m.alloc(m.addHolder({ class: 'slab', name: 'k', node: node1 }), toOrder(3));
    expect([kernel >= section(33), kernel < section(34)]).toEqual([true, true]);
    m.free(toPfn(kernel));
    m.free(toPfn(pfn));
    for (const k of [32, 33]) expect(m.offline(toBlockId(k)).ok).toBe(true);
    expect(names(node1)).toEqual(boots);
    expect(m.alloc(user, toOrder(0))).toBeLessThan(section(8));
    expect(m.check()).toEqual([]);
  });

  it('ND3 it goes with its last block; an offline one keeps it; a node that was emptied can come again', () => {
    const m = boot();
    for (let round = 0; round < 3; round++) {
      add(m, sections(32, 34), node1);
      expect(m.online(toBlockId(32), 'movable').ok).toBe(true);
      expect(m.offline(toBlockId(32)).ok).toBe(true);
      const first = m.removeMemory(sections(32, 33));
      expect(first).toMatchObject({ ok: true, value: { nodes: [] } });
      expect([...m.nodes]).toEqual([0, 1]); // block 33 is offline, and there
      expect(m.removeMemory(sections(33, 34))).toMatchObject({ ok: true, value: { nodes: [1] } });
      expect([...m.nodes]).toEqual([0]);
      expect(() => m.zonelist(node1, ZONE_MOVABLE)).toThrow('no such node');
      expect(m.pools.filter((p) => p.node === 1)).toHaveLength(2); // pools stay, empty, for the next time
      expect(m.zonelists).toHaveLength(4);
    }
    expect(m.check()).toEqual([]);
  });

  it('ND4 CPUs keep a node; the first node has one where nobody says', () => {
    const m = boot({}, { nodeCpus: new Map([node0, node1].map((n) => [n, 1])) });
    add(m, sections(32, 33), node1);
    expect(m.removeMemory(sections(32, 33))).toMatchObject({ ok: true, value: { nodes: [] } });
    expect([...m.nodes]).toEqual([0, 1]);
    expect(m.check()).toEqual([]);
  });

  it('ND5 only possible nodes take memory: those of the spec, else 0 to 63', () => {
    const m = boot({}, { possibleNodes: [node0, toNodeId(5)] });
    expect(m.addMemory(sections(32, 33), node1)).toMatchObject({ error: { errno: 'EINVAL' } });
    expect([...m.nodes]).toEqual([0]);
    expect(add(m, sections(32, 33), toNodeId(5)).node).toBe(5);
    const any = boot();
    expect(add(any, sections(32, 33), toNodeId(63)).node).toBe(63);
  });
});
