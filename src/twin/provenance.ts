// Provenance: where a figure comes from. Every number that dimmer shows carries one of these three words.
//
//   measured   read from the kernel, as it was printed
//   derived    follows from measured figures by a rule that is named
//   assumed    a constant of ours, or a choice among what the measurements allow

export type Provenance = 'measured' | 'derived' | 'assumed';

export type Figure = { readonly value: number; readonly provenance: Provenance };

/** One figure of the capture beside the twin's. `equal` false is a difference that is reported, never hidden. */
export type Comparison = {
  /** "Node 0, zone DMA32: free chunks of order 3". */
  readonly name: string;
  /** Kernel file that the capture's figure is from. */
  readonly file: string;
  readonly captured: number;
  readonly twin: number;
  readonly equal: boolean;
};
