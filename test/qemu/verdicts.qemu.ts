// Verdicts against reality: what `dimmer check` says of each block of a loaded guest, then each block really taken offline.
//
//   load ──> dimmer check --json ──> for each online block: offline, and back into its zone ──> confusion table     twice
//
// The load is of many kinds and still while it is judged: processes with page tables, files in the page cache of a file
// system, tmpfs, dentries, and two DIMMs, one movable and one of kernel memory. A verdict is about now: what is judged last is
// tried last, seconds later, after its neighbours' pages have moved through it. That is part of the truth. A `maybe` of a block
// that was taken counts as wrong, though it was only careful: page flags cannot tell (docs/fidelity.md).

import { expect, it } from 'vitest';
import { type Judged, parseTruthTable, rightAbout, type Said, score, shareOf } from '#twin/accuracy';
import { expectExit, sourceOf } from './dimmer.ts';
import { describeQemu, GIB, type Guest } from './guest.ts';

const LOAD = `
  mkdir -p /tmp/near /tmp/far
  load churn 30 16
  load dentries /tmp/near 4000 0
  load dentries /tmp/far 4000 1
  load dentries /mnt/disk 2000
  for i in $(seq 24); do dd if=/dev/zero of=/mnt/disk/file$i bs=1M count=8 2>/dev/null; done
  for i in $(seq 12); do dd if=/dev/zero of=/tmp/file$i bs=1M count=8 2>/dev/null; done
  for i in $(seq 1 3 24); do rm /mnt/disk/file$i; done
  sync
`;

/** How long a block may be tried before it counts as endless. */
const TRY_SECONDS = 8;

type Row = { readonly firstBlock: number; readonly state: string; readonly verdict?: Said['verdict'] } & Omit<
  Said,
  'verdict'
>;

describeQemu({ name: 'verdicts', memoryMb: 6144, diskMb: 1024 }, (booted) => {
  it('check says beforehand what Linux does: agreement of at least 0.98', async () => {
    const guest = booted();
    await guest.addOnlineDimm({ id: 'movable0', bytes: GIB, node: 1, word: 'online_movable' });
    await guest.addOnlineDimm({ id: 'kernel0', bytes: GIB, node: 0, word: 'online_kernel' });
    const loading = performance.now();
    // While most of node 0 is taken, kernel pages go where they find room, in several zones; then it is given back.
    const crowd = await guest.hold('anon 3200 0 nothp');
    await guest.text(LOAD);
    await guest.hold('sleepers 30 0');
    await guest.release(crowd.pid as number);
    await guest.hold('sleepers 20');
    await guest.hold('anon 300 1 nothp');
    await guest.hold('anon 200');
    console.log(`verdicts: loaded in ${((performance.now() - loading) / 1000).toFixed(1)} s`);
    const first = await judgeAll(guest);
    // Once more: other pages in other places, and blocks that have been away.
    await guest.text('mkdir /tmp/more; load churn 20 16; load dentries /tmp/more 2000 1');
    const judged = [...first, ...(await judgeAll(guest))];

    const { taken, refused } = score('guest', judged);
    // A guest on which every block goes, or none, would prove nothing.
    expect(taken).toBeGreaterThan(20);
    expect(refused).toBeGreaterThan(6);
    const right = judged.filter(rightAbout).length;
    console.log(`verdicts: both times together ${right} of ${judged.length}`);
    expect(shareOf({ hits: right, of: judged.length }), confusion(judged)).toBeGreaterThanOrEqual(0.98);
  });
});

/** Every online block judged, then every one tried and put back; the table is printed. */
async function judgeAll(guest: Guest): Promise<readonly Judged[]> {
  const checked = await expectExit(0, ['check', '--from', sourceOf(guest), '--all', '--json']);
  console.log(`verdicts: dimmer check took ${(checked.ms / 1000).toFixed(1)} s`);
  const rows = (JSON.parse(checked.out) as { rows: readonly Row[] }).rows.filter((r) => r.state === 'online');

  const tried = performance.now();
  const truth = await guest.text(`load truth ${TRY_SECONDS}`);
  console.log(`verdicts: ${rows.length} blocks tried in ${((performance.now() - tried) / 1000).toFixed(1)} s`);
  const lines = [...truth.matchAll(/^block=(\d+) zone=(.*) errno=(\d+) seconds=\S+ back=(\d+) zone_after=(.*)$/gm)];
  expect(lines.map((m) => Number(m[1]))).toEqual(rows.map((r) => r.firstBlock));
  for (const [line, , zone, , back, zoneAfter] of lines) expect([back, zoneAfter], line).toEqual(['0', zone]);

  const table = parseTruthTable(
    [
      'capture,load,block,result,errno',
      ...lines.map((m) => `guest,load,${m[1]},${m[3] === '0' ? 'ok' : 'no'},${m[3]}`),
    ].join('\n'),
  );
  if (!table.ok) throw new Error(table.error);
  const judged = table.value.map((row, k) => ({ row, said: rows[k] as Said }));
  console.log(confusion(judged));
  return judged;
}

/** Verdicts down, answers across; then each row that disagrees. */
function confusion(judged: readonly Judged[]): string {
  const outcomes = ['taken', 'refused', 'endless'] as const;
  const head = `verdict ${outcomes.map((o) => o.padStart(8)).join('')}`;
  const body = (['yes', 'no', 'maybe'] as const).map((verdict) => {
    const cells = outcomes.map((o) => judged.filter((j) => j.row.outcome === o && j.said.verdict === verdict).length);
    return `${verdict.padEnd(8)}${cells.map((n) => String(n).padStart(8)).join('')}`;
  });
  const misses = judged
    .filter((j) => !rightAbout(j))
    .map(
      (j) => `  block ${j.row.block}: ${j.said.verdict} (${j.said.reason}), and it was ${j.row.outcome} ${j.row.errno}`,
    );
  const right = judged.length - misses.length;
  return [
    head,
    ...body,
    `agreement ${right} of ${judged.length} = ${(right / judged.length).toFixed(3)}`,
    ...misses,
  ].join('\n');
}
