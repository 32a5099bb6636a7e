import { describe, expect, it } from 'vitest';
import { Prng } from '#base/prng';
import { type HolderId, type Pfn, toNodeId, toOrder, toPfn } from '#base/units';
import { KPF } from '#kernfs/kpageflags';
import { parseMeminfo } from '#kernfs/meminfo';
import { treeFromFiles } from '#kernfs/memory-tree';
import { parseZoneinfo } from '#kernfs/zoneinfo';
import { Machine } from '#mm/machine';
import type { MachineSpec } from '#mm/machine-spec';
import { pools } from '#mm/pools/pools';
import { ZoneView } from '#mm/pools/zone-view';
import { kernelTree } from './kernel-tree.ts';
import { treeSnapshot } from './tree-snapshot.ts';

const DIR = '/sys/kernel/mm/pools';
const BASE = 2 ** 20;
const BLOCK = 32768;

function boot(nodes = 2, spec: Partial<MachineSpec> = {}): Machine {
  const ram = Array.from({ length: nodes }, (_, k) => {
    const start = BASE / 2 + k * 16 * BLOCK; // node 0 lies in DMA32, the second half of it in Normal
    return { start: toPfn(start), end: toPfn(start + 16 * BLOCK), node: toNodeId(k) };
  });
  return Machine.boot({ ram, code: 'shared', cpus: 4, ...spec });
}

class Shell {
  readonly fs;
  constructor(m: Machine) {
    this.fs = kernelTree(m);
  }
  cat(path: string): string {
    const text = this.fs.readText(path);
    if (text === undefined) throw new Error(`${path} cannot be read`);
    return text;
  }
  echo(text: string, path: string): string {
    const said = this.fs.write(path, `${text}\n`);
    return typeof said === 'number' ? 'ok' : said;
  }
}

describe('/sys/kernel/mm/pools', () => {
  it('TP1 a pool is made, read, changed and ended with echo and cat', () => {
    const m = boot();
    const sh = new Shell(m);
    expect(
      sh.echo('web pages=10000 min=500 nodes=0 owner=alice perms=bob:alloc,free;carl:inspect max=64M', `${DIR}/create`),
    ).toBe('ok');
    const of = (file: string) => sh.cat(`${DIR}/web/${file}`);
    expect(
      Object.fromEntries(
        [
          'managed',
          'free',
          'min',
          'max',
          'owner',
          'perms',
          'node_mask',
          'cpu_mask',
          'class',
          'parent',
          'priority',
          'borrowed_in',
          'borrowed_out',
        ].map((f) => [f, of(f)]),
      ),
    ).toEqual({
      managed: '10000\n',
      free: '10000\n',
      min: '500\n',
      max: '16384\n',
      owner: 'alice\n',
      perms: 'bob:alloc,free carl:inspect\n',
      node_mask: '0\n',
      cpu_mask: '0-3\n',
      class: 'normal\n',
      parent: 'node0\n',
      priority: '0\n',
      borrowed_in: '0\n',
      borrowed_out: '0\n',
    });
    expect(of('buddyinfo')).toBe('0 0 0 0 1 0 0 0 1 1 9\n'); // 9 * 1024 + 512 + 256 + 16
    expect(of('chunk_histogram')).toMatch(/^free:9 /);
    for (const [file, text, now] of [
      ['managed', '12000', '12000\n'],
      ['managed', '40M', '10240\n'],
      ['min', '1000', '1000\n'],
      ['priority', '7', '7\n'],
      ['owner', 'dora', 'dora\n'],
      ['perms', 'eve:reclaim', 'eve:reclaim\n'],
      ['cpu_mask', '1-2', '1-2\n'],
      ['class', 'opportunistic', 'opportunistic\n'],
      ['fallback', 'node1 3', 'node1-Movable:3 node1-Normal:3\n'],
      ['fallback', 'node1-Movable off', 'node1-Normal:3\n'],
      ['max', 'max', 'max\n'],
    ] as const) {
      expect([file, sh.echo(text, `${DIR}/web/${file}`)]).toEqual([file, 'ok']);
      expect([file, of(file)]).toEqual([file, now]);
    }
    expect(sh.echo('web', `${DIR}/destroy`)).toBe('ok');
    expect(sh.fs.read(`${DIR}/web/free`)).toBe('ENOENT');
    expect(m.check()).toEqual([]);
  });

  it('TP2 what is refused is an errno, and nothing changes', () => {
    const m = boot();
    const sh = new Shell(m);
    expect(sh.echo('web pages=1000 min=900', `${DIR}/create`)).toBe('ok');
    const holder = pools(m).addHolder({ class: 'slab', name: 'x', pool: 'web' });
    for (let k = 0; k < 950; k++) m.alloc((holder as { value: HolderId }).value, toOrder(0));
    const before = m.digest();
    for (const [path, text, errno] of [
      ['create', 'web pages=1', 'EEXIST'],
      ['create', '', 'EINVAL'],
      ['create', 'x pages=many', 'EINVAL'],
      ['create', 'x pages=1 colour=red', 'EINVAL'],
      ['create', 'x pages=1 nodes=', 'EINVAL'],
      ['create', 'x pages=1 nodes=7', 'EINVAL'],
      ['create', 'x pages=1 class=fast', 'EINVAL'],
      ['create', 'x pages=1 perms=bob:fly', 'EINVAL'],
      ['create', 'x pages=99999999', 'ENOMEM'],
      ['create', 'x pages=1 parent=nobody', 'ENOENT'],
      ['destroy', 'nobody', 'ENOENT'],
      ['destroy', 'web', 'EBUSY'],
      ['destroy', 'web now', 'EINVAL'],
      ['destroy', 'node0-Normal', 'EPERM'],
      ['web/managed', '920', 'EBUSY'],
      ['web/managed', '10', 'ENOSPC'],
      ['web/managed', '5K', 'EINVAL'],
      ['web/min', '2000', 'ENOSPC'],
      ['web/node_mask', '1', 'EXDEV'],
      ['web/priority', '300', 'EINVAL'],
      ['web/fallback', 'nobody 1', 'ENOENT'],
      ['web/free', '1', 'EACCES'],
      ['node0-Normal/managed', '1', 'EACCES'],
    ] as const) {
      expect([path, text, sh.echo(text, `${DIR}/${path}`)]).toEqual([path, text, errno]);
    }
    expect(m.digest()).toBe(before);
    expect(sh.cat(`${DIR}/web/managed`)).toBe('1000\n');
    expect(m.check()).toEqual([]);
  });
});

describe('the directory of a twin', () => {
  it('TP3 it is listed while there is a user pool, and can be entered at any time', () => {
    const m = boot();
    const recorded = new Map([['/proc/version', 'Linux version 6.12.0\n']]);
    const fs = kernelTree(m, { base: treeFromFiles(recorded) });
    const listed = () => fs.list('/sys/kernel/mm').includes('pools');
    const before = treeSnapshot(fs);
    expect(listed()).toBe(false);
    expect(fs.write(`${DIR}/create`, 'web pages=1000\n')).toBe(15);
    expect(listed()).toBe(true);
    expect(fs.readText(`${DIR}/web/managed`)).toBe('1000\n');
    expect(fs.write(`${DIR}/destroy`, 'web')).toBe(3);
    expect(listed()).toBe(false);
    expect(treeSnapshot(fs)).toEqual(before);
    expect(m.check()).toEqual([]);
  });
});

describe('what /proc says of zones with pools', () => {
  it('ZV3 kpageflags: frames of pools read as those of zones, free, on a per-CPU list and used', () => {
    for (let seed = 1; seed <= 4; seed++) {
      const rng = new Prng(seed);
      const m = boot();
      const { fs } = new Shell(m);
      const held: Pfn[] = [];
      const holders = ['a', 'b', 'c'].map((name, k) => {
        pools(m).create({ name, pages: 2000 + rng.below(3000), nodes: [k % 2] });
        const h = pools(m).addHolder({ class: 'slab', name, pool: name });
        if (!h.ok) throw new Error(h.error.message);
        return h.value;
      });
      for (let k = 0; k < 3000; k++) {
        if (rng.chance(0.65)) {
          const pfn = m.alloc(rng.pick(holders), toOrder(rng.chance(0.8) ? 0 : rng.below(6)));
          if (pfn !== -1) held.push(pfn);
        } else if (held.length > 0) m.free(held.splice(rng.below(held.length), 1)[0] as Pfn);
      }
      const words = fs.read('/proc/kpageflags');
      if (typeof words === 'string') throw new Error(words);
      const flags = new DataView(words.buffer, words.byteOffset, words.byteLength);
      let seen = 0;
      for (const pool of m.pools.filter((p) => p.kind === 'user')) {
        const listed = new Set<number>(); // every frame of every free chunk, from the lists
        pool.alloc.area.forEachFree(0, pool.pages, (i, order) => {
          for (let k = 0; k < 2 ** order; k++) listed.add(pool.base + i + k);
        });
        for (let i = 0; i < m.sections.frames; i++) {
          if (m.poolAt(i) !== pool) continue;
          const at = 8 * m.sections.pfnOf(i);
          const a = m.sections.allocationAt(i);
          const ends = a === undefined || a.order === 0 ? [] : a.head === i ? [KPF.COMPOUND_HEAD] : [KPF.COMPOUND_TAIL];
          const bits = listed.has(i) ? [KPF.BUDDY] : a === undefined ? [] : [KPF.SLAB, ...ends];
          const want = bits.reduce((w, b) => w + 2 ** b, 0);
          const says = [m.sections.pfnOf(i), flags.getUint32(at, true), flags.getUint32(at + 4, true)];
          if (says[1] !== want || says[2] !== 0) expect(says, `seed=${seed} ${pool.name}`).toEqual([says[0], want, 0]);
          seen |= listed.has(i) ? 1 : a === undefined ? 2 : 4;
        }
      }
      expect(seen, `seed=${seed}: free, on a per-CPU list, used`).toBe(7);
      expect(m.check()).toEqual([]);
    }
  });

  it('ZV1 carving changes no line of zoneinfo, meminfo and node meminfo but per-CPU lists', () => {
    const m = boot();
    const sh = new Shell(m);
    const say = () => [
      sh.cat('/proc/zoneinfo'),
      sh.cat('/proc/meminfo'),
      sh.cat('/sys/devices/system/node/node0/meminfo'),
      sh.cat('/sys/devices/system/node/node1/meminfo'),
    ];
    const before = say();
    for (const [name, pages, nodes] of [
      ['a', 100_000, [0]],
      ['b', 7777, [1]],
      ['c', 600_000, [1, 0]],
    ] as const) {
      const r = pools(m).create({ name, pages, nodes });
      if (!r.ok) throw new Error(r.error.message);
    }
    expect(say()).toEqual(before);
    expect(m.check()).toEqual([]);
  });

  it('ZV2 at random: free, managed and present of each zone are a recount of the frames that bear its label', () => {
    for (let seed = 1; seed <= 5; seed++) {
      const rng = new Prng(seed);
      const nodes = 2 + rng.below(3);
      const m = boot(nodes, {
        placement: rng.pick(['address', 'lifo']),
        ...(rng.chance(0.5) && { compat: 'linux' as const }),
      });
      const sh = new Shell(m);
      const holders: HolderId[] = [m.addHolder({ class: 'anonymous', name: 'none' })];
      for (let k = 0; k < 5; k++) {
        const name = `p${k}`;
        pools(m).create({ name, pages: rng.below(120_000), nodes: rng.pick([[0], [1], [0, 1], [nodes - 1, 1]]) });
        const h = pools(m).addHolder({ class: rng.pick(['anonymous', 'slab', 'file'] as const), name, pool: name });
        if (h.ok) holders.push(h.value);
      }
      const held: Pfn[] = [];
      for (let k = 0; k < 30_000; k++) {
        for (const p of m.pools) if (k % 500 === 0) p.alloc.useCpu(rng.below(4));
        const pfn = rng.chance(0.6) ? m.alloc(rng.pick(holders), toOrder(rng.chance(0.9) ? 0 : rng.below(10))) : -1;
        if (pfn !== -1) held.push(pfn);
        else if (held.length > 0) m.free(held.splice(rng.below(held.length), 1)[0] as Pfn);
      }
      const zones = parseZoneinfo(sh.cat('/proc/zoneinfo'));
      if (!zones.ok) throw new Error('zoneinfo does not parse');
      let free = 0;
      let managed = 0;
      for (const zone of m.zones) {
        const count = { present: 0, used: 0, pcp: 0 };
        for (let i = 0; i < m.sections.frames; i++) {
          if (m.owners.zoneAt(i) !== zone.id) continue;
          count.present++;
          if (m.sections.allocationAt(i) !== undefined) count.used++;
        }
        for (const p of m.pools) {
          p.alloc.forEachPcp((_c, _m, i, order) => {
            if (m.owners.zoneAt(p.base + i) === zone.id) count.pcp += 1 << order;
          });
        }
        const z = zones.value.find((q) => q.node === zone.node && q.zone === zone.name);
        const says = {
          free: z?.free,
          present: z?.present,
          managed: z?.managed,
          pcp: z?.pagesets.reduce((n, s) => n + s.count, 0) ?? 0,
        };
        expect(says, `seed=${seed} ${zone.title}`).toEqual({
          free: count.present - count.used - count.pcp,
          present: count.present,
          managed: count.present,
          pcp: count.pcp,
        });
        const view = new ZoneView(m, zone);
        const chunks = view.counts().reduce((n, c, k) => n + c * 2 ** (k % 11), 0);
        expect(chunks, `seed=${seed} ${zone.title}`).toBe(view.nrFree());
        expect(view.pageblocks().reduce((n, c) => n + c, 0) * 512, `seed=${seed}`).toBe(count.present);
        free += count.present - count.used - count.pcp;
        managed += count.present;
      }
      const meminfo = parseMeminfo(sh.cat('/proc/meminfo'));
      if (!meminfo.ok) throw new Error('meminfo does not parse');
      expect(meminfo.value.amounts.get('MemFree')?.value, `seed=${seed}`).toBe(free * 4);
      expect(meminfo.value.amounts.get('MemTotal')?.value, `seed=${seed}`).toBe(managed * 4);
      expect(m.check()).toEqual([]);
    }
  }, 60_000);
});
