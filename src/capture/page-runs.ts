// PageRuns: one 64-bit word per frame (/proc/kpageflags, kpagecount, kpagecgroup), as runs of equal words.
//
//   startPfn  Float64  [n]   first frame of run k; ascending; startPfn[0] = 0
//   word      Uint32   [n]   index into the dictionary
//   lo, hi    Uint32   [d]   the dictionary: the two halves of each distinct word (never a BigInt in a loop)
//   endPfn    number         end of the last run (half-open): frames the file had
//
// Neighbouring runs have different words. A 24 GiB host has about 140 thousand runs of 170 words, a 1 TiB host is
// the same columns, longer: 12 bytes a run.

export type PageRuns = {
  readonly length: number;
  readonly startPfn: Float64Array;
  readonly word: Uint32Array;
  readonly lo: Uint32Array;
  readonly hi: Uint32Array;
  readonly endPfn: number;
};
