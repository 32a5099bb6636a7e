// Removal compared, on captures of real guests and of a host. Rules: docs/spec/plan.md.

import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import { readCapture } from '#hosts/linux/read-capture';
import { toBlockId } from '#mm/index';
import { buildTwin, judgeAll, type PagesTwin } from '#twin/index';
import { syntheticCapture } from '../../test/support/synthetic-capture.ts';
import { HELPS, type Help } from './help.ts';
import { classified } from './kernel-classes.ts';
import { compareRemoval, type RemovalComparison } from './removal.ts';

const golden = (name: string): string => fileURLToPath(new URL(`../../test/golden/${name}`, import.meta.url));

function twinOf(name: string): PagesTwin {
  const capture = readCapture(golden(name), { now: () => new Date(0) });
  if (!capture.ok) throw new Error(capture.error.sentence);
  const twin = buildTwin(capture.value);
  if (!twin.ok || twin.value.level !== 'pages') throw new Error('a twin with pages');
  return twin.value;
}

const CAPTURES = ['demo.dimmer', 'twin/guest-6.1-mixed.dimmer', 'twin/guest-6.12-memmap-on-memory.dimmer'];
const twins = new Map(CAPTURES.map((name) => [name, twinOf(name)]));

function compared(twin: PagesTwin, helps: readonly Help[] = HELPS): RemovalComparison {
  const r = compareRemoval(
    twin,
    twin.blocks.map((b) => toBlockId(b.id)),
    { helps },
  );
  if (!r.ok) throw new Error(r.error);
  return r.value;
}
const comparisons = new Map([...twins].map(([name, twin]) => [name, compared(twin)]));

describe('a removal compared', () => {
  for (const [name, report] of comparisons) {
    const twin = twins.get(name) as PagesTwin;

    it(`RC1 ${name}: begins with what check says, and adds one help a stage`, () => {
      expect(report.stages.map((s) => s.adds)).toEqual(['linux', ...HELPS]);
      const verdicts = judgeAll(twin);
      const ids = (v: string): number[] => verdicts.filter((x) => x.verdict === v).map((x) => x.block);
      const [linux] = report.stages;
      expect([linux?.yes, linux?.maybe, linux?.no]).toEqual([ids('yes'), ids('maybe'), ids('no')]);
    });

    it(`RC2 ${name}: a block that goes at one stage goes at every later one`, () => {
      report.stages.reduce((before, s) => {
        expect(
          before.yes.filter((b) => !s.yes.includes(b)),
          s.adds,
        ).toEqual([]);
        expect(s.together.bytes).toBeGreaterThanOrEqual(before.together.bytes);
        return s;
      });
    });

    it(`RC3 ${name}: whatever stays has a cause and a name`, () => {
      for (const s of report.stages) {
        const named = new Set(s.left.flatMap((g) => g.blocks));
        expect(
          [...s.no, ...s.maybe].filter((b) => !named.has(b)),
          s.adds,
        ).toEqual([]);
        for (const g of s.left) expect([g.cause, g.name].every((w) => w.length > 0)).toBe(true);
      }
    });

    it(`RC4 ${name}: with all helps no page of the kernel stops a block`, () => {
      const last = report.stages[report.stages.length - 1];
      const causes = new Set((last?.left ?? []).map((g) => g.cause));
      for (const cause of ['unmovable', 'reserved', 'relinquish', 'fault']) expect(causes).not.toContain(cause);
      const before = report.stages[0]?.yes.length ?? 0;
      expect(last?.yes.length).toBeGreaterThan(before);
    });

    it(`RC5 ${name}: reserved frames are told apart, everything else stays`, () => {
      const m = classified(twin);
      const counters = (x: typeof m): unknown =>
        x.pools.map((p) => [p.managed, p.present, p.alloc.nrFree(), p.alloc.pcpPages()]);
      expect(counters(m)).toEqual(counters(twin.machine));
      const pages = (x: typeof m, is: (spec: (typeof m.holders.specs)[number]) => boolean): number =>
        x.holders.specs.reduce((n, spec, h) => n + (is(spec) ? (x.holders.pages[h] as number) : 0), 0);
      expect(pages(m, (s) => s.class === 'reserved')).toBe(pages(twin.machine, (s) => s.class === 'reserved'));
      expect(pages(m, (s) => s.name === 'kernel image')).toBeGreaterThan(0);
      expect(pages(m, (s) => s.name.startsWith('reserved at boot'))).toBe(0);
      expect(pages(m, (s) => s.kernel === 'X')).toBeGreaterThan(0);
      expect(m.check()).toEqual([]);
    });
  }

  it('RC1 the order in which helps are asked for does not matter', () => {
    const twin = twins.get('demo.dimmer') as PagesTwin;
    const blocks = [toBlockId(2), toBlockId(3)];
    const one = compareRemoval(twin, blocks, { helps: ['remap', 'drivers'] });
    const other = compareRemoval(twin, blocks, { helps: ['drivers', 'remap'] });
    expect(one).toEqual(other);
    expect(one.ok && one.value.stages.map((s) => s.adds)).toEqual(['linux', 'drivers', 'remap']);
  });

  it('RC6 a capture without page flags is refused', () => {
    const { kpageflags, ...capture } = syntheticCapture({ blocks: [{ id: 32 }], frames: [] });
    expect(kpageflags).toBeDefined();
    const built = buildTwin(capture);
    if (!built.ok) throw new Error(built.error.message);
    expect(compareRemoval(built.value, [toBlockId(32)])).toMatchObject({ ok: false });
  });
});
