// Real guests replayed: what memory comes, which blocks go where, what a write to `state` gives, and the zones after each
// step. The lines and their origin: test/golden/hotplug/README.md. Rules in docs/spec/hotplug-life.md.

import { readdirSync, readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { assert } from '#base/assert';
import { toBlockId, toNodeId, toOrder, toPfn } from '#base/units';
import { PAGE_SIZE, PAGEBLOCK_ORDER, PAGEBLOCK_PAGES } from './geometry.ts';
import type { HotplugSettings, OnlinePolicy } from './hotplug.ts';
import type { AutoOnline, KernelName } from './kernel-profile.ts';
import { Machine } from './machine.ts';
import type { RamRange } from './machine-spec.ts';
import type { ZoneName } from './page-class.ts';
import type { Pool } from './pool.ts';
import type { OnlineType } from './zone-choice.ts';

const FOLDER = new URL('../../test/golden/hotplug/', import.meta.url);
const MIB_PAGES = 2 ** 20 / PAGE_SIZE;
const TYPE_NAMES = ['Unmovable', 'Movable', 'Reclaimable', 'HighAtomic', 'CMA', 'Isolate'];
const WORDS: Readonly<Record<string, OnlineType>> = {
  online: 'online',
  online_kernel: 'kernel',
  online_movable: 'movable',
};

type Replay = { readonly m: Machine; memTotal: number };

const hexPfn = (text: string): number => Number.parseInt(text, 16);
const memTotal = (m: Machine): number => m.pools.reduce((n, p) => n + p.managed, 0) * 4;

function bootFrom(lines: readonly string[][]): Machine {
  const ram: RamRange[] = [];
  const settings: { -readonly [K in keyof HotplugSettings]?: HotplugSettings[K] } = { autoOnline: 'offline' };
  let numaAware = true;
  let ratio = 301;
  let kernel: KernelName = '6.12';
  for (const [verb, a, b, c] of lines) {
    if (verb === 'ram') ram.push({ node: toNodeId(Number(a)), start: toPfn(hexPfn(b)), end: toPfn(hexPfn(c)) });
    if (verb !== 'set') continue;
    if (a === 'kernel') kernel = b as KernelName;
    else if (a === 'online_policy') settings.onlinePolicy = b as OnlinePolicy;
    else if (a === 'memhp_default_state') settings.autoOnline = b as AutoOnline;
    else if (a === 'memmap_on_memory') settings.memmapOnMemory = 'Y';
    else if (a === 'movable_node') settings.movableNode = true;
    else if (a === 'auto_movable_ratio') ratio = Number(b);
    else if (a === 'auto_movable_numa_aware') numaAware = b !== '0';
    else assert(false, 'a setting the replay does not know', { key: a });
  }
  settings.autoMovable = { ratio, numaAware };
  return Machine.boot({ kernel, ram, hotplug: settings, compat: 'linux', code: 'shared' });
}

/** A kernel page at this very frame: whatever is free before it is taken first and given back. */
function pinKernelPage(m: Machine, pfn: number): void {
  const index = m.sections.indexOf(toPfn(pfn));
  const pool = m.poolAt(index) as Pool;
  const info = m.frame(toPfn(pfn));
  if (info.state === 'used') return;
  pool.alloc.drain();
  pool.alloc.area.forEachFree(0, pool.pages, (i, order) => {
    if (i + pool.base > index || index >= i + pool.base + 2 ** order) return;
    pool.alloc.take(i, order);
    const at = index - pool.base;
    for (let k = i; k < i + 2 ** order; k++) if (k !== at) pool.alloc.freeToArea(k, 0);
    m.occupy(m.addHolder({ class: 'slab', name: 'dentry' }), index, 0);
  });
  expect(m.frame(toPfn(pfn)).state).toBe('used');
}

function poolOf(m: Machine, node: string, zone: string): Pool | undefined {
  return m.poolNamed(toNodeId(Number(node)), zone as ZoneName);
}

function play(r: Replay, line: readonly string[], settings: Machine['hotplug']['settings']): void {
  const { m } = r;
  const [verb, a, b, c] = line;
  switch (verb) {
    case 'ram':
    case 'set':
      return;
    case 'pinned':
      return pinKernelPage(m, hexPfn(a));
    case 'dimm': {
      const node = toNodeId(Number(a));
      const start = hexPfn(b);
      const pages = Number(c) * MIB_PAGES;
      const group = m.hotplug.groups.register('static', node, pages);
      const memmap = settings.memmapOnMemory === 'N' ? 'kernel' : 'self-block';
      const added = m.addMemory({ start: toPfn(start), end: toPfn(start + pages) }, node, { group, memmap });
      expect(added).toMatchObject({ ok: true });
      return;
    }
    case 'undimm': {
      const start = hexPfn(a);
      const end = start + Number(b) * MIB_PAGES;
      for (let at = start; at < end; at += m.blockPages) {
        const id = toBlockId(at / m.blockPages);
        if (m.block(id)?.state === 'online') expect(m.offline(id)).toMatchObject({ ok: true });
      }
      expect(m.removeMemory({ start: toPfn(start), end: toPfn(end) })).toMatchObject({ ok: true });
      return;
    }
    case 'write': {
      const id = toBlockId(Number(a));
      const done = b === 'offline' ? m.offline(id) : m.online(id, WORDS[b]);
      expect(done.ok ? undefined : done.error.errno).toBe(c);
      return;
    }
    case 'block': {
      const id = toBlockId(Number(a));
      expect(m.block(id)?.state).toBe(b);
      const zones = m.validZones(id);
      expect(zones.length === 0 ? 'none' : zones.join(' ')).toBe(line.slice(3).join(' '));
      return;
    }
    case 'zone': {
      const pool = poolOf(m, a, b);
      const figures: Record<string, number> = {
        spanned: pool?.spanned ?? 0,
        present: pool?.present ?? 0,
        managed: pool?.managed ?? 0,
        start_pfn: pool?.startPfn ?? 0,
      };
      for (let k = 3; k < line.length; k += 2)
        expect([line[k], figures[line[k]]]).toEqual([line[k], Number(line[k + 1])]);
      return;
    }
    case 'pageblocks': {
      const pool = poolOf(m, a, b) as Pool;
      const counts: Record<string, number> = {};
      for (let i = 0; i < pool.pages; i += PAGEBLOCK_PAGES) {
        if (m.owners.owner[(pool.base + i) >>> PAGEBLOCK_ORDER] !== pool.id) continue;
        const type = TYPE_NAMES[pool.alloc.area.typeOf(i)];
        counts[type] = (counts[type] ?? 0) + 1;
      }
      const want: Record<string, number> = {};
      for (let k = 3; k < line.length; k += 2) want[line[k]] = Number(line[k + 1]);
      expect(counts).toEqual(want);
      return;
    }
    case 'iomem': {
      const high: string[] = [];
      m.hotplug.resources.forEach(({ start, end, name }) => {
        if (name === 'System RAM' && start >= 2 ** 32) high.push(`${start.toString(16)}-${end.toString(16)}`);
      });
      expect(high).toEqual(line.slice(1));
      return;
    }
    case 'memtotal': {
      const now = memTotal(m);
      if (r.memTotal >= 0) expect(now - r.memTotal).toBe(Number(a));
      r.memTotal = now;
      return;
    }
    default:
      assert(false, 'a line the replay does not know', { line });
  }
}

const files = readdirSync(FOLDER).filter((f) => f.endsWith('.txt'));

describe('HP1 real guests, replayed', () => {
  it('there are some', () => {
    expect(files.length).toBeGreaterThanOrEqual(11);
  });

  for (const file of files) {
    it(`HP1 ${file}`, () => {
      const lines = readFileSync(new URL(file, FOLDER), 'utf8')
        .split('\n')
        .map((l) => l.trim())
        .filter((l) => l !== '' && !l.startsWith('#'));
      const words = lines.map((l) => l.split(/\s+/));
      const m = bootFrom(words);
      const replay: Replay = { m, memTotal: -1 };
      words.forEach((w, k) => {
        try {
          play(replay, w, m.hotplug.settings);
        } catch (e) {
          throw new Error(`line ${k + 1}, "${lines[k]}": ${e instanceof Error ? e.message : e}`);
        }
      });
      expect(m.check()).toEqual([]);
      expect(m.alloc(m.addHolder({ class: 'anonymous', name: 'still alive' }), toOrder(0))).toBeGreaterThanOrEqual(0);
    });
  }
});
