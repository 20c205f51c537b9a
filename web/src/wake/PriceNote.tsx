/**
 * Above the composer, before a question wakes a machine that costs money: what that will cost.
 *
 * Not responsible for refusing: a wake that the budget cannot pay is refused by the server.
 */
import type { ModelStatus } from "../api/types";
import { wakePrice } from "../models/describe";
import { strings } from "../strings";

export function PriceNote({ id, model }: { id: string; model: ModelStatus }) {
  const price = wakePrice(model);
  if (!price || !model.quote) return null;
  const words = model.state === "asleep" ? strings.money.asleep : strings.money.notUp;
  return (
    <p
      id={id}
      title={strings.money.from(model.quote.basis, model.quote.source)}
      className="mx-auto w-full max-w-3xl px-5 pb-1.5 text-[13px] leading-snug text-muted [overflow-wrap:anywhere]"
    >
      {words(model.name, price)}
    </p>
  );
}
