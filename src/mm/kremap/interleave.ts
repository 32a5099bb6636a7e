// Every interleaving of a move with two readers and a writer: the protocol as a machine of atomic steps, explored whole.
//
//   cpu 0   reads words 0, 1 through the direct map          each CPU has a TLB entry of its own; it may fill it at any time
//   cpu 1   reads words 0, 1 through the second alias
//   cpu 2   writes words 0, 1 through the direct map         a write by a read-only entry faults, and waits for the thaw
//   mover   the steps of KREMAP_STEPS, cut into atomic ones (table below); before commit it may be aborted after any of them
//
//   step        atomic steps                                              on the way back
//   reserve     -                                                         the target is another's: its words are rubbish
//   freeze      each alias read-only; each CPU's entry flushed            each alias writable
//               in a stop window: no CPU runs until commit                CPUs run
//   copy        word 0; word 1                                            -
//   switch      each alias leads to the new frame                         each alias leads to the old one; CPUs flushed
//   shootdown   each CPU's entry flushed                                  -
//   verify      both frames are equal                                     -
//   release     the source is another's: its words are rubbish            -   (nothing can fail from here on)
//   commit      each alias writable; CPUs run                             -
//
// R6: whatever word a reader loads is the one that was stored last, as if there were one frame: never a torn page, never a
// lost or a late write; and nobody waits for ever. An order of steps that the protocol does not have, or one left out, shows
// at once that the model can tell (tests). Spec 9.C, R6.

import { KREMAP_STEPS, type KremapStep } from './protocol.ts';

export type InterleaveOptions = {
  /** 'write-protect' for pages that can fault, 'stop' for those that cannot. */
  readonly freeze: 'write-protect' | 'stop';
  /** The page has a second alias. */
  readonly image: boolean;
  /** Other orders, or steps left out: to see that the model notices. Default: the protocol's. */
  readonly steps?: readonly KremapStep[];
  /** Atomic steps to leave out, by name, on the way there and on the way back. */
  readonly without?: readonly string[];
};

export type Interleaved = {
  /** States of the world that can be reached. */
  readonly states: number;
  /** Ends in which everybody has done his work, moved or aborted. */
  readonly ends: number;
  readonly violations: readonly string[];
};

/** Words of rubbish that the next owner of a frame writes. */
const RUBBISH = 7;
const READERS = [0, 1] as const;
const WRITER = 2;
const CPUS = [0, 1, 2] as const;

/** TLB entry or page table entry: frame 0 (old) or 1 (new), writable or not. */
type Entry = { readonly frame: 0 | 1; readonly writable: boolean };

type World = {
  /** What one single frame would hold. */
  readonly truth: readonly [number, number];
  readonly frames: readonly [readonly [number, number], readonly [number, number]];
  /** By alias. */
  readonly pte: readonly [Entry, Entry];
  readonly tlb: readonly [Entry | null, Entry | null, Entry | null];
  readonly stopped: boolean;
  /** Words done by each CPU. */
  readonly done: readonly [number, number, number];
  /** Atomic steps of the mover that are done; what is to be undone, if it was aborted. */
  readonly at: number;
  readonly back: readonly string[] | null;
};

/** One atomic step, and its way back. @returns undefined where the move must stop: verify found a difference */
type Atom = {
  readonly name: string;
  readonly step: KremapStep;
  readonly run: (w: World) => World | undefined;
  readonly back: readonly string[];
};

const put = <T extends readonly unknown[]>(list: T, index: number, value: T[number]): T =>
  list.map((x, k) => (k === index ? value : x)) as unknown as T; // same length, same members

const flush =
  (cpu: number) =>
  (w: World): World => ({ ...w, tlb: put(w.tlb, cpu, null) });
const writable =
  (alias: number, yes: boolean) =>
  (w: World): World => ({ ...w, pte: put(w.pte, alias, { ...(w.pte[alias] as Entry), writable: yes }) });
const leadTo =
  (alias: number, frame: 0 | 1) =>
  (w: World): World => ({ ...w, pte: put(w.pte, alias, { ...(w.pte[alias] as Entry), frame }) });
const spoil =
  (frame: 0 | 1) =>
  (w: World): World => ({ ...w, frames: put(w.frames, frame, [RUBBISH, RUBBISH]) });

/** The ways back, by name. */
const BACK: Readonly<Record<string, (w: World) => World>> = {
  'target given back': spoil(1),
  ...Object.fromEntries(READERS.map((a) => [`alias ${a} writable`, writable(a, true)])),
  ...Object.fromEntries(READERS.map((a) => [`alias ${a} back`, leadTo(a, 0)])),
  ...Object.fromEntries(CPUS.map((c) => [`cpu ${c} flushed`, flush(c)])),
  run: (w) => ({ ...w, stopped: false }),
};

function atomsOf(options: InterleaveOptions): Atom[] {
  const aliases = options.image ? [0, 1] : [0];
  const flushes = CPUS.map((c) => `cpu ${c} flushed`);
  const atom = (step: KremapStep, name: string, run: Atom['run'], back: readonly string[] = []): Atom => ({
    step,
    name: `${step} ${name}`,
    run,
    back,
  });
  const table: Readonly<Record<KremapStep, readonly Atom[]>> = {
    reserve: [atom('reserve', 'target', (w) => w, ['target given back'])],
    freeze:
      options.freeze === 'stop'
        ? [atom('freeze', 'stop', (w) => ({ ...w, stopped: true }), ['run'])]
        : [
            ...aliases.map((a) => atom('freeze', `alias ${a}`, writable(a, false), [`alias ${a} writable`])),
            ...CPUS.map((c) => atom('freeze', `flush ${c}`, flush(c))),
          ],
    copy: [0, 1].map((k) =>
      atom('copy', `word ${k}`, (w) => ({
        ...w,
        frames: put(w.frames, 1, put(w.frames[1], k, w.frames[0][k] as number)),
      })),
    ),
    // Undone by all ways back of a step in turn, so that the flushes come after the entry.
    switch: aliases.map((a) => atom('switch', `alias ${a}`, leadTo(a, 1), [`alias ${a} back`, ...flushes])),
    shootdown: CPUS.map((c) => atom('shootdown', `flush ${c}`, flush(c))),
    verify: [atom('verify', 'equal', (w) => (String(w.frames[0]) === String(w.frames[1]) ? w : undefined))],
    release: [atom('release', 'source', spoil(0))],
    commit: [
      ...(options.freeze === 'stop'
        ? [atom('commit', 'run', (w: World) => ({ ...w, stopped: false }))]
        : aliases.map((a) => atom('commit', `alias ${a}`, writable(a, true)))),
    ],
  };
  const kept = (name: string): boolean => options.without?.includes(name) !== true;
  return (options.steps ?? KREMAP_STEPS)
    .flatMap((step) => table[step])
    .filter((a) => kept(a.name))
    .map((a) => ({ ...a, back: a.back.filter(kept) }));
}

/** Explores every interleaving, until one goes wrong. Cost: some ten thousand states. */
export function interleave(options: InterleaveOptions): Interleaved {
  const atoms = atomsOf(options);
  const aliasOf = (cpu: number): 0 | 1 => (options.image && cpu === 1 ? 1 : 0);
  const start: World = {
    truth: [0, 0],
    frames: [
      [0, 0],
      [RUBBISH, RUBBISH],
    ],
    pte: [
      { frame: 0, writable: true },
      { frame: 0, writable: true },
    ],
    tlb: [null, null, null],
    stopped: false,
    done: [0, 0, 0],
    at: 0,
    back: null,
  };
  const seen = new Set<string>([JSON.stringify(start)]);
  const queue: World[] = [start];
  const violations = new Set<string>();
  let ends = 0;
  for (let w = queue.pop(); w !== undefined && violations.size === 0; w = queue.pop()) {
    const next = [...moverSteps(w, atoms, violations), ...cpuSteps(w, aliasOf, violations)];
    const over = w.done.every((n) => n === 2) && moverIsOver(w, atoms);
    if (over) ends++;
    else if (next.length === 0) violations.add('somebody waits for ever');
    for (const n of next) {
      const key = JSON.stringify(n);
      if (seen.has(key)) continue;
      seen.add(key);
      queue.push(n);
    }
  }
  return { states: seen.size, ends, violations: [...violations].sort() };
}

const moverIsOver = (w: World, atoms: readonly Atom[]): boolean =>
  w.back === null ? w.at === atoms.length : w.back.length === 0;

function moverSteps(w: World, atoms: readonly Atom[], violations: Set<string>): World[] {
  if (w.back !== null) {
    const [name, ...rest] = w.back;
    return name === undefined ? [] : [{ ...(BACK[name] as (w: World) => World)(w), back: rest }];
  }
  const out: World[] = [];
  const doneAtoms = atoms.slice(0, w.at);
  const released = doneAtoms.some((a) => a.step === 'release');
  const undo = (n: World): World => ({ ...n, back: doneAtoms.toReversed().flatMap((a) => a.back) });
  if (!released && w.at > 0) out.push(undo(w));
  const atom = atoms[w.at];
  if (atom === undefined) return out;
  const after = atom.run(w);
  if (after !== undefined) out.push({ ...after, at: w.at + 1 });
  else {
    violations.add('the copy differs');
    out.push(undo(w));
  }
  return out;
}

function cpuSteps(w: World, aliasOf: (cpu: number) => 0 | 1, violations: Set<string>): World[] {
  if (w.stopped) return [];
  const out: World[] = [];
  for (const cpu of CPUS) {
    const pte = w.pte[aliasOf(cpu)] as Entry;
    const entry = w.tlb[cpu] ?? pte;
    const filled: World = { ...w, tlb: put(w.tlb, cpu, entry) };
    if (w.tlb[cpu] === null) out.push(filled); // it may look ahead
    const word = w.done[cpu] as number;
    if (word === 2) continue;
    const went: World = { ...filled, done: put(w.done, cpu, word + 1) };
    if (cpu !== WRITER) {
      const read = (w.frames[entry.frame] as readonly number[])[word];
      if (read !== w.truth[word])
        violations.add(read === RUBBISH ? 'a reader sees rubbish' : 'a reader sees another word');
      out.push(went);
    } else if (entry.writable) {
      const frame = put(w.frames[entry.frame] as readonly [number, number], word, word + 1);
      out.push({ ...went, frames: put(w.frames, entry.frame, frame), truth: put(w.truth, word, word + 1) });
    } else if (pte.writable) {
      out.push({ ...w, tlb: put(w.tlb, cpu, null) }); // a fault that finds it thawed: tried again
    }
  }
  return out;
}
