/** The other end of `WorkerLink`: begins each order in the turn in which it comes. */
export function answerOrders<Order extends { id: number }>(
  run: (order: Order) => Promise<unknown>,
): void {
  process.on('message', (order: Order) => {
    run(order).then(
      () => process.send?.({ id: order.id }),
      (error: unknown) => process.send?.({ id: order.id, error: String(error) }),
    );
  });
}
