// SPDX-License-Identifier: AGPL-3.0-or-later
package io.remora.architecture;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayDeque;
import java.util.ArrayList;
import java.util.Collection;
import java.util.Deque;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.TreeSet;
import java.util.function.Predicate;
import javax.xml.parsers.DocumentBuilderFactory;
import javax.xml.parsers.ParserConfigurationException;
import org.w3c.dom.Element;
import org.w3c.dom.Node;
import org.xml.sax.SAXException;

/** The modules of the build and what they depend on, as their poms say. */
final class Modules {

  /** The folder that the build runs in. */
  static final Path ROOT = Path.of("").toAbsolutePath().getParent();

  private static final String PREFIX = "remora-";

  private final Map<String, Module> byName;

  /**
   * One module.
   *
   * @param name its artifact, less the prefix
   * @param folder its folder, as the parent's pom names it
   * @param dependencies what its pom declares, except for tests
   */
  record Module(String name, String folder, List<Dependency> dependencies) {

    /** What it uses of the other modules, the optional ones or the others. */
    List<String> uses(boolean optional) {
      return dependencies.stream()
          .filter(each -> each.optional == optional && each.isModule())
          .map(Dependency::module)
          .toList();
    }

    boolean hasMainSources() {
      return Files.isDirectory(ROOT.resolve(folder).resolve("src/main"));
    }
  }

  /**
   * One dependency of scope compile or runtime.
   *
   * @param group its group
   * @param artifact its artifact
   * @param optional whether users of the module are spared it
   */
  record Dependency(String group, String artifact, boolean optional) {

    boolean isModule() {
      return group.equals("io.remora");
    }

    String module() {
      return artifact.substring(PREFIX.length());
    }
  }

  private Modules(Map<String, Module> byName) {
    this.byName = byName;
  }

  static Modules read() throws IOException {
    Map<String, Module> byName = new LinkedHashMap<>();
    for (Element module : elements(pom(ROOT), "modules", "module")) {
      String folder = module.getTextContent().strip();
      Element project = pom(ROOT.resolve(folder));
      String name = text(project, "artifactId").substring(PREFIX.length());
      byName.put(name, new Module(name, folder, dependencies(project)));
    }
    return new Modules(byName);
  }

  Collection<Module> all() {
    return byName.values();
  }

  /** The dependencies that a user of a module gets with it, other libraries' own excepted. */
  Set<String> withUse(String name) {
    Set<String> found = new TreeSet<>();
    Deque<Module> left = new ArrayDeque<>(List.of(byName.get(name)));
    while (!left.isEmpty()) {
      left.pop().dependencies.stream()
          .filter(Predicate.not(Dependency::optional))
          .filter(each -> found.add(each.group + ":" + each.artifact) && each.isModule())
          .forEach(each -> left.push(byName.get(each.module())));
    }
    return found;
  }

  private static List<Dependency> dependencies(Element project) {
    return elements(project, "dependencies", "dependency").stream()
        .filter(each -> !text(each, "scope").equals("test"))
        .map(
            each ->
                new Dependency(
                    text(each, "groupId"),
                    text(each, "artifactId"),
                    text(each, "optional").equals("true")))
        .toList();
  }

  private static Element pom(Path folder) throws IOException {
    try {
      return DocumentBuilderFactory.newInstance()
          .newDocumentBuilder()
          .parse(folder.resolve("pom.xml").toFile())
          .getDocumentElement();
    } catch (ParserConfigurationException | SAXException e) {
      throw new IOException("the pom in %s cannot be read".formatted(folder), e);
    }
  }

  private static List<Element> elements(Element parent, String list, String name) {
    List<Element> found = new ArrayList<>();
    children(parent, list).forEach(each -> found.addAll(children(each, name)));
    return found;
  }

  private static List<Element> children(Element parent, String name) {
    List<Element> found = new ArrayList<>();
    for (Node each = parent.getFirstChild(); each != null; each = each.getNextSibling()) {
      if (each instanceof Element element && element.getTagName().equals(name)) {
        found.add(element);
      }
    }
    return found;
  }

  private static String text(Element parent, String name) {
    return children(parent, name).stream()
        .findFirst()
        .map(each -> each.getTextContent().strip())
        .orElse("");
  }
}
