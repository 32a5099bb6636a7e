// Spans against a naive hull: the set of all 2 MiB steps that a zone has, looked through from the start each time.

import { expect, it } from 'vitest';
import { Prng } from '#base/prng';
import { toBlockId, toNodeId, toPfn } from '#base/units';
import { DMA_END, DMA32_END, PAGEBLOCK_PAGES, PAGES_PER_SECTION } from './geometry.ts';
import { Machine } from './machine.ts';
import type { RamRange } from './machine-spec.ts';
import { ZONE_NAMES } from './page-class.ts';

type Span = { start: number; end: number };

/** Zones by name: the first frames of their 2 MiB steps, and the span as Linux would keep it. */
class NaiveSpans {
  readonly steps = new Map<string, Set<number>>();
  readonly spans = new Map<string, Span>();

  #of(zone: string): Set<number> {
    let s = this.steps.get(zone);
    if (s === undefined) this.steps.set(zone, (s = new Set()));
    return s;
  }

  come(zone: string, start: number, end: number): void {
    for (let pfn = start - (start % PAGEBLOCK_PAGES); pfn < end; pfn += PAGEBLOCK_PAGES) this.#of(zone).add(pfn);
    const span = this.spans.get(zone) ?? { start: 0, end: 0 };
    const empty = span.start === span.end;
    this.spans.set(zone, {
      start: empty ? start : Math.min(span.start, start),
      end: empty ? end : Math.max(span.end, end),
    });
  }

  /** shrink_zone_span(): one border, found by looking at every step from it on. */
  go(zone: string, start: number, end: number): void {
    const steps = this.#of(zone);
    for (let pfn = start; pfn < end; pfn += PAGEBLOCK_PAGES) steps.delete(pfn);
    const span = this.spans.get(zone) as Span;
    if (span.start === start) {
      let pfn = end;
      while (pfn < span.end && !steps.has(pfn)) pfn += PAGEBLOCK_PAGES;
      if (pfn < span.end) span.start = pfn;
      else span.start = span.end = 0;
    } else if (span.end === end) {
      let pfn = start - PAGEBLOCK_PAGES;
      while (pfn >= span.start && !steps.has(pfn)) pfn -= PAGEBLOCK_PAGES;
      if (pfn >= span.start) span.end = pfn + PAGEBLOCK_PAGES;
      else span.start = span.end = 0;
    }
  }
}

const byAddress = (pfn: number): number => (pfn < DMA_END ? 0 : pfn < DMA32_END ? 1 : 2);

/** RAM of two nodes around 4 GiB, with holes inside of blocks and between them; ragged at some ends. */
function someRam(prng: Prng): RamRange[] {
  const ram: RamRange[] = [];
  const block = PAGES_PER_SECTION;
  for (let b = 24; b < 44; b++) {
    if (prng.chance(0.2)) continue; // nothing there
    const node = toNodeId(b < 34 ? 0 : 1);
    const head = prng.chance(0.1) ? prng.below(20) * 256 : 0;
    const tail = prng.chance(0.1) ? prng.below(20) * 256 : 0;
    const before = ram[ram.length - 1];
    const start = toPfn(b * block + head);
    const end = toPfn((b + 1) * block - tail);
    if (before !== undefined && before.end === start && before.node === node) ram[ram.length - 1] = { ...before, end };
    else ram.push({ start, end, node });
  }
  return ram;
}

it('ZS1 ZS2 spans are what a search through all 2 MiB steps finds, whatever comes and goes', () => {
  const cases = Number(process.env.DIMMER_SEEDS ?? 8);
  let shrunk = 0;
  for (let seed = 1; seed <= cases; seed++) {
    const prng = new Prng(seed);
    const ram = someRam(prng);
    if (ram.length === 0) continue;
    const spec = { ram, blockSize: 2 ** 27, watermarks: 'none', contents: 'none', code: 'shared' } as const;
    const m = Machine.boot({ ...spec, hotplug: { autoOnline: 'offline' } });
    const naive = new NaiveSpans();
    for (const r of ram) {
      for (let at: number = r.start; at < r.end; ) {
        const end = Math.min(r.end, at < DMA32_END ? DMA32_END : r.end);
        naive.come(`${r.node} ${ZONE_NAMES[byAddress(at)]}`, at, end);
        at = end;
      }
    }
    // A zone's span at boot may be wider than its memory: docs/spec/machine.md.
    for (const p of m.pools)
      if (p.spanned > 0) naive.spans.set(`${p.node} ${p.name}`, { start: p.startPfn, end: p.endPfn });
    for (let step = 0; step < 120; step++) {
      const id = toBlockId(prng.below(48));
      const start = id * m.blockPages;
      const end = start + m.blockPages;
      const info = m.block(id);
      if (info === undefined) {
        const node = toNodeId(prng.below(3));
        if (prng.chance(0.3)) expect(m.addMemory({ start: toPfn(start), end: toPfn(end) }, node).ok).toBe(true);
      } else if (info.state === 'offline') {
        if (m.blocks.early[m.blocks.rowOf(id)] === 0 && prng.chance(0.1)) {
          expect(m.removeMemory({ start: toPfn(start), end: toPfn(end) }).ok).toBe(true);
          continue;
        }
        const done = m.online(id, prng.pick(['online', 'kernel', 'movable']));
        if (!done.ok) throw new Error(`seed=${seed} step=${step}: ${done.error.message}`);
        naive.come(`${info.node} ${done.value.zone}`, start, end);
      } else if (m.offline(id).ok) {
        const zone = `${info.node} ${info.pool?.name}`;
        const before = { ...naive.spans.get(zone) };
        naive.go(zone, start, end);
        if (before.start !== naive.spans.get(zone)?.start || before.end !== naive.spans.get(zone)?.end) shrunk++;
      }
      for (const p of m.pools) {
        const want = naive.spans.get(`${p.node} ${p.name}`) ?? { start: 0, end: 0 };
        expect([p.startPfn, p.endPfn], `seed=${seed} step=${step} ${p.title}`).toEqual([want.start, want.end]);
      }
    }
    expect(m.check(), `seed=${seed}`).toEqual([]);
  }
  expect(shrunk).toBeGreaterThan(50);
});
