/** What the mock talks about: answers, stages of a wake, and chats that were there before. */

/** name, seconds, whether it knows its progress, detail */
export const STAGES = [
  ["capacity", 2.5, false, "spot g5.xlarge in eu-central-1b at 0.46 USD/h"],
  ["boot", 4, false, "i-0f3a91c2 is running, waiting for its agent"],
  ["mesh", 1.5, false, "handshake with lighthouse 10.42.0.1"],
  ["pull", 5, true, "llama-3.2-3b-q4_k_m.gguf, 1.9 GB"],
  ["load", 2, true, "28 of 28 layers on the GPU"],
];

export const MEMORY = {
  code: "out_of_memory",
  message: "The model needs 9.1 GB of GPU memory and the machine has 7.8 GB.",
  next_step: "Choose a smaller quantisation, or a pool with a larger GPU.",
};

/** In the words of the keeper. */
export const BUDGET = {
  code: "budget",
  message:
    "The budget does not allow this wake. Of 60 USD/month of the pool 'spot', 0.03 USD is left. This wake costs at least 0.13 USD.",
  next_step: "Raise the budget, or wait for its next period.",
};

export const ANSWER = `A **spot instance** is spare capacity that a cloud sells cheaply, and may take back with two minutes' notice. An *on-demand* instance costs more and stays until you stop it.

### When each one fits

| | Spot | On-demand |
|---|---|---|
| Price of a \`g5.xlarge\` | 0.46 USD/h | 1.26 USD/h |
| May be taken back | yes | no |
| Good for | batch work, dev, *wakeable* models | what must never stop |

1. Ask for spot first.
2. Fall back to on-demand when there is none:

\`\`\`python
def choose(spot_price: float | None, limit: float) -> str:
    """The kind of machine to ask for."""
    if spot_price is not None and spot_price <= limit:
        return "spot"
    return "on-demand"
\`\`\`

The saving over a month of $h$ hours is about

$$ S = h \\cdot (p_{od} - p_{spot}) $$

so 100 hours save some **80 USD**. See the [documentation](https://example.org/spot) for details.`;

export const LONG = Array.from(
  { length: 24 },
  (_, index) =>
    `${index + 1}. Point number ${index + 1} says that a lamp which nobody reads by should be put out, and lit again when somebody comes.`,
).join("\n");

const TITLES = [
  ["Spot or on-demand for a small GPU", 0.02],
  ["Group dates by week in Python", 0.2],
  ["Why does my Nebula tunnel flap?", 1.1],
  ["Talos upgrade checklist", 1.3],
  ["A friendlier out-of-office mail", 3],
  ["Explain KV cache like I am a plumber", 4],
  ["Helm values for two node pools", 12],
  ["Names for a black cat", 40],
];

export function seedChats(world) {
  const now = Date.now() / 1000;
  for (const [title, days] of TITLES) {
    const at = now - days * 86_400;
    const chat = { id: world.id("cht"), title, model: "small", system: null, created_at: at, updated_at: at };
    world.chats.set(chat.id, chat);
    const user = world.add(chat, { parent_id: null, role: "user", content: `${title}?`, created_at: at });
    const answer = {
      parent_id: user.id,
      role: "assistant",
      content: ANSWER,
      model: "small",
      created_at: at + 4,
    };
    const usage = {
      prompt_tokens: 31,
      completion_tokens: 248,
      ttft: 0.21,
      seconds: 6.1,
      tokens_per_second: 40.7,
      wake_seconds: 1.4,
    };
    world.add(chat, { ...answer, usage: { ...usage, wake_seconds: null } });
    chat.active = world.add(chat, { ...answer, usage }).id;
  }
}

/** A chat of `count` messages, for measuring long ones. Returns its id. */
export function longChat(world, count) {
  const at = Date.now() / 1000 - 7_200;
  const chat = {
    id: world.id("cht"),
    title: `A chat of ${count} messages`,
    model: "small",
    system: null,
    created_at: at,
    updated_at: at,
  };
  world.chats.set(chat.id, chat);
  let parent = null;
  for (let index = 0; index < count; index += 1) {
    const user = index % 2 === 0;
    const message = world.add(chat, {
      parent_id: parent,
      role: user ? "user" : "assistant",
      content: user ? `Question ${index / 2 + 1}?` : ANSWER,
      model: user ? null : "small",
      created_at: at + index,
    });
    parent = message.id;
  }
  chat.active = parent;
  return chat.id;
}
