// The floor: a bare stack of frames, no orders, no merging. What it costs is the harness.

export function create(pages) {
  const stack = new Int32Array(pages);
  for (let i = 0; i < pages; i++) stack[i] = pages - 1 - i;
  let n = pages;
  return {
    allocPages: () => (n === 0 ? -1 : stack[--n]),
    freePages: (frame) => {
      stack[n++] = frame;
    },
    metadataBytes: () => stack.byteLength,
  };
}
