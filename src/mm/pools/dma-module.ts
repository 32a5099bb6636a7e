// Modules: a driver is loaded with its device, finds or creates a pool for each of its rules, and gets its buffers.
//
//   load   for each rule: findOrCreate, min = the pages of its buffers ──> allocBuffer for each ──> a module
//            │ a refusal on the way: buffers are freed and references released, in reverse; nothing is left behind
//   unload frees all buffers, releases all references; pools that nobody uses any more go back to the zones
//
// What a driver states is its rule; where that is, is the pool's business. A module that is loaded again after it was
// unloaded may get other memory: nothing of it remembers where it was. After Snook 2007, problem 1: "at module load time".

import { err, ok, type Result } from '#base/result';
import { PAGE_SIZE } from '../geometry.ts';
import type { Machine } from '../machine.ts';
import { machineState } from '../machine-state.ts';
import { refusal } from '../refusal.ts';
import { type DmaBuffer, type DmaOptions, type DmaRef, type DmaRefusal, dmaPools } from './dma-pools.ts';
import type { DmaRule } from './dma-rule.ts';

export type DmaModuleSpec = {
  readonly name: string;
  /** Node that the device is plugged in to. */
  readonly node?: number;
  /** One reference each. */
  readonly uses: readonly {
    readonly rule: DmaRule;
    /** Bytes of each buffer, one at least. */
    readonly buffers: readonly number[];
    /** Most pages that it may have later. Default: what the buffers need. */
    readonly max?: number;
    readonly priority?: number;
  }[];
};

export type DmaModule = {
  readonly name: string;
  readonly uses: readonly { readonly ref: DmaRef; readonly buffers: readonly DmaBuffer[] }[];
};

class Modules {
  loaded = new Map<string, DmaModule>();

  copy(): Modules {
    const to = new Modules();
    to.loaded = new Map(this.loaded);
    return to;
  }
}

const states = machineState(() => new Modules());

/** Pages of buffers of these sizes. */
const pagesOf = (buffers: readonly number[]): number => buffers.reduce((n, b) => n + Math.ceil(b / PAGE_SIZE), 0);

/**
 * Loads a module: all of its buffers, or nothing.
 * @returns exists (EEXIST) if one of this name is loaded; else as findOrCreate and allocBuffer
 */
export function loadModule(m: Machine, spec: DmaModuleSpec, options: DmaOptions = {}): Result<DmaModule, DmaRefusal> {
  const { loaded } = states.of(m);
  if (loaded.has(spec.name)) return err(refusal('exists', `module ${spec.name} is loaded already`));
  const dma = dmaPools(m, options);
  const device = spec.node === undefined ? { name: spec.name } : { name: spec.name, node: spec.node };
  const uses: { ref: DmaRef; buffers: DmaBuffer[] }[] = [];
  const undo = (why: DmaRefusal): { ok: false; error: DmaRefusal } => {
    giveUp(m, uses);
    return err(why);
  };
  for (const { rule, buffers, max, priority } of spec.uses) {
    const min = pagesOf(buffers);
    const need = { device, min, max: max ?? min, buffers, ...(priority === undefined ? {} : { priority }) };
    const found = dma.findOrCreate(rule, need);
    if (!found.ok) return undo(found.error);
    const use = { ref: found.value, buffers: [] as DmaBuffer[] };
    uses.push(use);
    // The largest first: as the pool's frames were chosen for them.
    const order = buffers.map((bytes, k) => ({ bytes, k })).sort((a, b) => b.bytes - a.bytes);
    const got: (DmaBuffer | undefined)[] = buffers.map(() => undefined);
    for (const { bytes, k } of order) {
      const buffer = dma.allocBuffer(found.value.id, bytes);
      if (!buffer.ok) return undo(buffer.error);
      got[k] = buffer.value;
    }
    use.buffers = got as DmaBuffer[]; // one for each: a refusal left above
  }
  const module: DmaModule = { name: spec.name, uses };
  loaded.set(spec.name, module);
  return ok(module);
}

/** Frees everything that a module has. @returns no-such-memory (ENOENT) if it is not loaded */
export function unloadModule(m: Machine, name: string): Result<void, DmaRefusal> {
  const { loaded } = states.of(m);
  const module = loaded.get(name);
  if (module === undefined) return err(refusal('no-such-memory', `module ${name} is not loaded`));
  loaded.delete(name);
  giveUp(m, module.uses);
  return ok(undefined);
}

/** Modules in the order of their loading. */
export const loadedModules = (m: Machine): DmaModule[] => [...(states.has(m)?.loaded.values() ?? [])];

function giveUp(m: Machine, uses: DmaModule['uses']): void {
  const dma = dmaPools(m);
  for (const { ref } of [...uses].reverse()) {
    for (const buffer of dma.buffers(ref.id)) dma.freeBuffer(ref.id, buffer.id);
    dma.release(ref.id);
  }
}
