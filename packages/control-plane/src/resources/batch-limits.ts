/**
 * Operations, and compares, of one transaction that carries many things at once: etcd takes 128 of
 * each, and what is between a writer and the store may add compares of its own (a move of the store).
 */
export const maxBatchItems = 100;
