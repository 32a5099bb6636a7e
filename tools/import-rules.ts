// Import rules: who may import whom, as data. test/import-rules.test.ts proves them on every file under src/.
//
//   base ◄── mm ◄───────────┐
//     ▲      ▲  ▲           │
//     │      │  └── twin ◄──┤── query ◄── cli
//   kernfs ◄─┘      ▲       │
//     ▲             │       │
//   capture ◄───────┴── hosts/* (effects)
//
// machine-file imports mm and kernfs, cli imports machine-file. An arrow points to what is imported.
// `pure` layers may touch no effects: no node:*, clock, chance, timer or console;
// time and randomness are arguments. ARCHITECTURE.md shows the same table; a test compares the two.

export type Layer = {
  /** Folder under src/. The longest match wins. */
  readonly name: string;
  /** Layers it may import, besides itself and base. */
  readonly may: readonly string[];
  readonly pure: boolean;
  /** Packages from npm that it may import. */
  readonly packages: readonly string[];
};

export const LAYERS: readonly Layer[] = [
  { name: 'base', may: [], pure: true, packages: [] },
  { name: 'mm', may: [], pure: true, packages: [] },
  { name: 'sim', may: ['mm'], pure: true, packages: [] },
  { name: 'demo', may: ['mm', 'sim'], pure: true, packages: [] },
  { name: 'kernfs', may: [], pure: true, packages: [] },
  { name: 'capture', may: ['kernfs'], pure: true, packages: [] },
  { name: 'machine-file', may: ['mm', 'kernfs'], pure: true, packages: ['yaml'] },
  { name: 'tree', may: ['mm', 'kernfs'], pure: true, packages: [] },
  { name: 'twin', may: ['mm', 'kernfs', 'capture'], pure: true, packages: [] },
  { name: 'plan', may: ['mm', 'kernfs', 'capture', 'twin'], pure: true, packages: [] },
  { name: 'control', may: ['plan', 'kernfs', 'capture'], pure: true, packages: [] },
  { name: 'conformance', may: ['mm', 'kernfs', 'capture', 'tree', 'twin'], pure: true, packages: [] },
  { name: 'query', may: ['mm', 'kernfs', 'capture', 'twin'], pure: true, packages: [] },
  { name: 'hosts/linux', may: ['kernfs', 'capture', 'plan', 'control'], pure: false, packages: [] },
  { name: 'hosts/qemu', may: ['kernfs', 'capture', 'plan', 'control'], pure: false, packages: [] },
  { name: 'hosts/twin', may: ['mm', 'kernfs', 'capture', 'tree', 'twin', 'plan', 'control'], pure: true, packages: [] },
  { name: 'hosts/recording', may: ['kernfs', 'capture', 'plan', 'control'], pure: true, packages: [] },
  { name: 'hosts/fuse', may: ['kernfs'], pure: false, packages: [] },
  {
    name: 'cli',
    may: [
      'mm',
      'sim',
      'demo',
      'kernfs',
      'capture',
      'machine-file',
      'tree',
      'twin',
      'plan',
      'control',
      'conformance',
      'query',
      'hosts/linux',
      'hosts/qemu',
      'hosts/twin',
      'hosts/recording',
      'hosts/fuse',
    ],
    pure: false,
    packages: ['commander'],
  },
];

/** What a pure layer may not say, and what to do instead. */
export const EFFECTS: readonly { readonly pattern: RegExp; readonly instead: string }[] = [
  { pattern: /\bfrom 'node:/, instead: 'take a port as an argument; node:* lives in hosts and cli' },
  { pattern: /\bDate\b(?!;)/, instead: 'take the time as an argument' },
  { pattern: /\bMath\.random\b/, instead: 'take a Prng as an argument' },
  {
    pattern: /\b(setTimeout|setInterval|setImmediate|queueMicrotask)\b/,
    instead: 'be synchronous; the caller schedules',
  },
  { pattern: /\bconsole\./, instead: 'return a value; the rim prints' },
  { pattern: /\bprocess\./, instead: 'take it as an argument' },
  { pattern: /\bperformance\./, instead: 'take the clock as an argument' },
];

/** Layer of a file path relative to src/. */
export function layerOf(path: string): Layer | undefined {
  return LAYERS.filter((l) => path.startsWith(`${l.name}/`)).sort((a, b) => b.name.length - a.name.length)[0];
}
